"""What the adviser is told and asked: outcomes of trials, controls, costs, and the rules of one question.

An *arm* is a candidate source of calibration text (or a mixture of them). A *draw* is one calibration set of an arm. A
draw can be tried at two fidelities: `screen` (the first windows of the set, a short test) and `full`. Every number is a
*loss*, lower is better, and every draw is judged on the same examples, so that differences are paired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SCREEN = "screen"
FULL = "full"
BLOCKS = "blocks"  # another kind of screen: the whole set, and the first blocks of the model alone
MEAN = "mean"
QUANTILE = "lower-quantile"
MATTERS = 0.1  # of the SD of a draw, where nothing else is asked


@dataclass(frozen=True)
class Outcome:
    """One trial. `values`: a loss per target, in the order of `Rules.targets`; empty where the trial failed.

    A catastrophic draw is an outcome with a finite, bad loss. Infinite losses count as failures, NaN is refused.
    `seconds` of one worker, loading left out.
    """

    arm: str
    draw: int
    fidelity: str
    values: tuple[float, ...]
    seconds: float
    failed: bool = False

    def __post_init__(self) -> None:
        if self.fidelity not in (SCREEN, FULL):
            raise ValueError(f"fidelity: expected '{SCREEN}' or '{FULL}', got '{self.fidelity}'")
        if any(math.isnan(value) for value in self.values):
            raise ValueError(f"{self.arm}, draw {self.draw}: a loss is NaN; record the trial as failed instead")
        if not self.failed and not self.values:
            raise ValueError(f"{self.arm}, draw {self.draw}: no losses; record the trial as failed instead")

    @property
    def lost(self) -> bool:
        """Whether there is no finite loss to learn from."""
        return self.failed or not all(math.isfinite(value) for value in self.values)


@dataclass(frozen=True)
class Controls:
    """Losses per target of the dense model and of the best data-free method (round-to-nearest, HQQ, magnitude).

    None where it was not tried. They have no luck of the draw.
    """

    dense: tuple[float, ...] | None = None
    data_free: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Costs:
    """Expected seconds of one worker for a trial of each fidelity, and what was spent beside the outcomes.

    Used for what is not yet measured; outcomes that are there speak for themselves (`policy.measured`).
    `spent`: controls, descriptors, generation of text. `guessed`: screens and full trials were never timed here.
    """

    screen: float
    full: float
    spent: float = 0.0
    guessed: bool = False


@dataclass(frozen=True)
class Rules:
    """What is asked.

    budget:    seconds of one worker, times the workers (two hours on four GPUs: 28,800).
    targets:   names of the targets; with several, an arm's loss is its worst regret over them (minimax).
    matters:   the difference that matters: a number in the unit of the loss for all targets, one per target, or None
               for a tenth of the SD of a draw of each target.
    criterion: `mean`: the mean of an arm's draws; `lower-quantile`: the loss that one draw in `1 / quantile` exceeds.
    guarantee: race on full draws alone that errs at most with probability `alpha` (`guarantee.py`).
    lead:      SDs of a draw by which the best arm must lead for the guarantee to hold.
    draws:     calibration sets that each arm can give.
    """

    budget: float
    targets: tuple[str, ...] = ("loss",)
    matters: float | tuple[float, ...] | None = None
    criterion: str = MEAN
    quantile: float = 0.1
    guarantee: bool = False
    lead: float = 2.7
    alpha: float = 0.1
    draws: int = 12

    def __post_init__(self) -> None:
        if self.criterion not in (MEAN, QUANTILE):
            raise ValueError(f"criterion: expected '{MEAN}' or '{QUANTILE}', got '{self.criterion}'")
        if not self.targets:
            raise ValueError("targets: expected at least one")
        if isinstance(self.matters, tuple) and len(self.matters) != len(self.targets):
            raise ValueError(f"matters: {len(self.matters)} numbers for {len(self.targets)} targets")
        sizes = () if self.matters is None else self._sizes
        if any(not (size > 0 and math.isfinite(size)) for size in sizes):
            raise ValueError(f"matters: expected finite differences above 0, got {self.matters}")
        for name, high in (("quantile", 0.5), ("alpha", 0.5)):
            value = getattr(self, name)
            if not 0 < value <= high:
                raise ValueError(f"{name}: expected more than 0 and at most {high}, got {value}")
        if not self.budget > 0 or not self.lead > 0 or self.draws < 2:
            raise ValueError("budget and lead must be above 0, and draws at least 2")

    @property
    def _sizes(self) -> tuple[float, ...]:
        return self.matters if isinstance(self.matters, tuple) else (float(self.matters or 0),) * len(self.targets)

    def units(self, spread: Sequence[float]) -> tuple[tuple[float, ...], float]:
        """(unit of each target, difference that matters in that unit), given the SD of a draw of each target.

        One number for all targets keeps the loss's own unit; one per target makes the multiples of it the unit, and
        without any the unit is the SD of a draw.
        """
        if self.matters is None:
            return (1.0,) * len(spread) if len(spread) == 1 else tuple(spread), (
                MATTERS * spread[0] if len(spread) == 1 else MATTERS
            )
        if isinstance(self.matters, tuple):
            return (self.matters, 1.0) if len(self.matters) > 1 else ((1.0,), self.matters[0])
        return (1.0,) * len(self.targets), float(self.matters)


@dataclass(frozen=True)
class Trial:
    """A trial to run: draw `draw` of an arm at a fidelity."""

    arm: str
    draw: int
    fidelity: str


@dataclass(frozen=True)
class Round:
    """Trials to run side by side, and why, in one line."""

    trials: tuple[Trial, ...]
    reason: str


@dataclass(frozen=True)
class Stop:
    """No further trial. kind: settled | budget | draws | cannot matter | guaranteed | failed; `reason` in one line."""

    kind: str
    reason: str
