"""Policies that choose a source from tables of losses: the adviser, and what people do without it.

`low` and `high` are float64 [arms, draws, targets]: the losses of every draw at the two fidelities, NaN where a trial
fails. A policy sees a loss only by paying for it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from sweep.adviser.outcomes import SCREEN, Controls, Costs, Outcome, Round, Rules, Stop
from sweep.adviser.policy import next_round
from sweep.adviser.posterior import believe
from sweep.adviser.verdict import TIE, said, slight


@dataclass(frozen=True)
class Played:
    """The arm that was chosen and what was said of it.

    regret, upper: stated expected regret and its 80 % upper bound, in the unit of the loss. p_best: stated.
    verdict: winner, tie or cannot tell; `any_will_do`, and `named` how many arms it names. at_random: stated expected
    regret of an arm taken at random, and its 80 % upper bound. spent: seconds of trials. rounds, and `slowest`: the
    seconds of the slowest decision.
    """

    arm: int
    regret: float
    upper: float
    p_best: float
    verdict: str
    any_will_do: bool
    named: int
    at_random: float
    at_random_upper: float
    spent: float
    rounds: int
    stop: str
    slowest: float


def advise(low: np.ndarray, high: np.ndarray, rules: Rules, costs: Costs, controls: Controls | None = None) -> Played:
    """Let the adviser choose."""
    arms = [f"arm{k}" for k in range(len(high))]
    outcomes: list[Outcome] = []
    rounds, slowest = 0, 0.0
    while True:
        began = time.perf_counter()
        step = next_round(outcomes, arms, rules, costs, controls)
        slowest = max(slowest, time.perf_counter() - began)
        if isinstance(step, Stop):
            break
        rounds += 1
        outcomes += _run(step, low, high, costs)
    belief = believe(outcomes, arms, rules)
    lead = belief.leader
    at_random = belief.regret[:, belief.alive].mean(axis=1)
    verdict, named, _ = said(belief, slight(belief, controls, rules))
    return Played(
        lead,
        float(belief.expected_regret[lead]),
        float(np.quantile(belief.regret[:, lead], 0.8)),
        float(belief.best[lead]),
        verdict,
        verdict == TIE and len(named) == int(belief.alive.sum()),
        len(named),
        float(at_random.mean()),
        float(np.quantile(at_random, 0.8)),
        sum(outcome.seconds for outcome in outcomes),
        rounds,
        step.kind,
        slowest,
    )


def _run(step: Round, low: np.ndarray, high: np.ndarray, costs: Costs) -> list[Outcome]:
    """Look the round's trials up."""
    found = []
    for trial in step.trials:
        table, seconds = (low, costs.screen) if trial.fidelity == SCREEN else (high, costs.full)
        values = table[int(trial.arm.removeprefix("arm")), trial.draw]
        failed = bool(np.isnan(values).any())
        losses = () if failed else tuple(values.tolist())
        found.append(Outcome(trial.arm, trial.draw, trial.fidelity, losses, seconds, failed))
    return found


def sequential_halving(losses: np.ndarray, trials: int) -> int:
    """The arm that sequential halving (Karnin, Koren and Somekh 2013) chooses by mean loss, float64 [arms, draws].

    A failed draw counts as the worst loss of all. With too few trials for a round its survivors get one draw each.
    """
    losses = np.where(np.isnan(losses), np.nanmax(losses), losses)
    left = np.arange(len(losses))
    rounds = math.ceil(math.log2(len(left)))
    seen = 0
    for _ in range(rounds):
        each = max(1, trials // (len(left) * rounds))
        seen = min(seen + each, losses.shape[1])
        ranked = left[np.argsort(losses[left, :seen].mean(axis=1), kind="stable")]
        left = ranked[: math.ceil(len(left) / 2)]
    return int(left[0])


def even(losses: np.ndarray, trials: int) -> int:
    """The arm of least mean loss after the same number of draws of each, failed draws counting as the worst."""
    losses = np.where(np.isnan(losses), np.nanmax(losses), losses)
    each = min(max(1, trials // len(losses)), losses.shape[1])
    return int(losses[:, :each].mean(axis=1).argmin())
