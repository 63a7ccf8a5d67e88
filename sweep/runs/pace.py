"""How long trials of a model take, as they were seen, and whether another worker should load it for those that wait.

At the end of a sweep workers have nothing left to do of the model that they hold. One that loads another model for a
trial that a holder would have begun a moment later makes the sweep longer, and holds a GPU for nothing. Seconds are
those from when a worker is given a trial until that has left its device; `held` is what a worker holds for its trials.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

LEAST_LOAD = 1.0  # seconds that a model takes to be loaded and evaluated, where no worker was seen to do it: the fewest


class Paces:
    """Mean seconds by what is held: of trials for which a worker had to load it, and of others."""

    def __init__(self) -> None:
        self._loaded: defaultdict[object, _Mean] = defaultdict(_Mean)
        self._held: defaultdict[object, _Mean] = defaultdict(_Mean)

    def ended(self, held: object, seconds: float, *, loaded: bool) -> None:
        """A trial has left its device."""
        (self._loaded if loaded else self._held)[held].add(seconds)

    def left(self, held: object, seconds: float, *, loads: bool) -> float:
        """Seconds that a trial will probably still take which has taken so many, with loading or without. One that
        takes longer than usual is expected to take as much longer again, so nobody waits long for one that hangs."""
        return abs((self._with_loading(held) if loads else self._held[held].value) - seconds)

    def worth_loading(self, held: object, waiting: int, left: Sequence[float]) -> bool:
        """Whether one worker more ends so many trials sooner, that else wait for those which hold it already; these
        have so many seconds `left` of the trials that they run."""
        each = self._held[held].value
        if not left or not each:
            return True
        rounds, place = divmod(waiting - 1, len(left))
        return self._with_loading(held) < sorted(left)[place] + (rounds + 1) * each

    def _with_loading(self, held: object) -> float:
        return self._loaded[held].value or self._held[held].value + LEAST_LOAD


class _Mean:
    """Of numbers that come one by one; 0 without any."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, number: float) -> None:
        self._sum += number
        self._count += 1

    @property
    def value(self) -> float:
        return self._sum / self._count if self._count else 0.0
