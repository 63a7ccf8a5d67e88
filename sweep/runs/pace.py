"""How long trials of a model take, as they were seen, and whether another worker should load it for those that wait.

At the end of a sweep workers have nothing left to do of the model that they hold. One that loads another model for a
trial that a holder would have begun a moment later makes the sweep longer, and holds a GPU for nothing. Seconds are
those from when a worker is given a trial until that has left its device; `held` is what a worker holds for its trials.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence

LEAST_LOAD = 1.0  # seconds that a model takes to be loaded and evaluated, where no worker was seen to do it


class Paces:
    """By what is held: how many times the expected seconds trials take, and how long loading takes."""

    def __init__(self) -> None:
        self._held: defaultdict[object, _Seconds] = defaultdict(_Seconds)
        self._loaded: defaultdict[object, _Seconds] = defaultdict(_Seconds)

    def ended(self, held: object, seconds: float, expected: float, *, loaded: bool) -> None:
        """A trial has left its device, with loading or without."""
        (self._loaded if loaded else self._held)[held].add(seconds, expected)

    def left(self, held: object, seconds: float, expected: float, *, loads: bool) -> float:
        """Seconds that a trial will probably still take which has taken so many, with loading or without. One that
        takes longer than usual is expected to take as much longer again, so nobody waits long for one that hangs."""
        return abs(self._ratio(held) * expected + (self._load(held) if loads else 0.0) - seconds)

    def worth_loading(self, held: object, waiting: Iterable[float], left: Sequence[float]) -> bool:
        """Whether one worker more ends trials sooner that else wait for those which hold their model; these have so
        many seconds `left` of the trials that they run. waiting: expected seconds, in the order of beginning."""
        ratio, load = self._ratio(held), self._load(held)
        if not left or not ratio:
            return True
        free, alone = sorted(left), 0.0
        for expected in waiting:
            alone = alone or load + ratio * expected  # of the first one
            end = free[0] + ratio * expected
            if alone < end:
                return True
            heapq.heapreplace(free, end)
        return False

    def _ratio(self, held: object) -> float:
        of = self._held[held]
        return of.seconds / of.expected if of.expected else 0.0

    def _load(self, held: object) -> float:
        of = self._loaded[held]
        return max(LEAST_LOAD, (of.seconds - self._ratio(held) * of.expected) / of.count if of.count else 0.0)


class _Seconds:
    """Of trials that ended: their number, what they took, and what was expected."""

    def __init__(self) -> None:
        self.count, self.seconds, self.expected = 0, 0.0, 0.0

    def add(self, seconds: float, expected: float) -> None:
        self.count += 1
        self.seconds += seconds
        self.expected += expected
