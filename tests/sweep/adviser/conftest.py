"""Outcomes of simulated arms, and a run of the adviser on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sweep.adviser.outcomes import FULL, SCREEN, Costs, Outcome, Round, Rules, Stop, Trial
from sweep.adviser.policy import next_round

Losses = Callable[[Trial], tuple[float, ...] | None]


def outcome(trial: Trial, losses: Losses, costs: Costs) -> Outcome:
    """The trial as it was run: None is a failure."""
    found = losses(trial)
    seconds = costs.full if trial.fidelity == FULL else costs.screen
    return Outcome(trial.arm, trial.draw, trial.fidelity, found or (), seconds, failed=found is None)


def arms_of(count: int) -> list[str]:
    return [f"arm{k}" for k in range(count)]


def losses_of(truth: np.ndarray, sd: float = 1.0) -> Losses:
    """Normal draws around `truth` [arms, targets]; screens have another level and scale, and half of the luck."""
    truth = np.asarray(truth, float).reshape(len(truth), -1)

    def losses(trial: Trial) -> tuple[float, ...]:
        k = int(trial.arm.removeprefix("arm"))
        luck = np.random.default_rng([k, trial.draw]).standard_normal((2, truth.shape[1]))
        if trial.fidelity == SCREEN:
            return tuple(5 + 1.5 * (truth[k] + sd * (luck[0] + luck[1]) / np.sqrt(2)))
        return tuple(truth[k] + sd * luck[0])

    return losses


def run(losses: Losses, arms: list[str], rules: Rules, costs: Costs) -> tuple[list[Outcome], list[Round], Stop]:
    """Rounds until the adviser stops."""
    outcomes: list[Outcome] = []
    rounds: list[Round] = []
    while isinstance(step := next_round(outcomes, arms, rules, costs), Round):
        rounds.append(step)
        outcomes += [outcome(trial, losses, costs) for trial in step.trials]
    return outcomes, rounds, step


@pytest.fixture
def costs() -> Costs:
    return Costs(screen=0.125, full=1.0)
