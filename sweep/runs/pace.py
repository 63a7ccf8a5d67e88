"""How long trials of a model take, as they were seen, and whether another worker should load it for those that wait.

At the end of a sweep workers have nothing left to do of the model that they hold. One that loads another model for a
trial that a holder would have begun a moment later makes the sweep longer, and holds a GPU for nothing. Seconds are
those from when a worker is given a trial until that has left its device.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

LEAST_LOAD = 1.0  # seconds that a model takes to be loaded and evaluated, where no worker was seen to do it


class Pace:
    """Of trials for which the same is held: how many times what was expected they take, and how long loading takes."""

    def __init__(self) -> None:
        self._held, self._loaded = _Seconds(), _Seconds()

    @property
    def known(self) -> bool:
        """Whether a trial has ended that nothing was loaded for."""
        return self._held.expected > 0

    def ended(self, seconds: float, expected: float, *, loaded: bool) -> None:
        """A trial has left its device, with loading or without."""
        (self._loaded if loaded else self._held).add(seconds, expected)

    def left(self, seconds: float, expected: float, *, loads: bool) -> float:
        """Seconds that a trial will probably still take which has taken so many, with loading or without. One that
        takes longer than usual is expected to take as much longer again, so nobody waits long for one that hangs."""
        return abs(self._ratio * expected + (self._load if loads else 0.0) - seconds)

    def worth_loading(self, waiting: Iterable[float], left: Iterable[float]) -> bool:
        """Whether one worker more ends trials sooner that else wait for those which hold their model; these have so
        many seconds `left` of the trials that they run. waiting: expected seconds, in the order of beginning."""
        ratio, load, free = self._ratio, self._load, sorted(left)
        if not free or not self.known:
            return True
        alone = 0.0
        for expected in waiting:
            alone = alone or load + ratio * expected  # of the first one
            end = free[0] + ratio * expected
            if alone < end:
                return True
            heapq.heapreplace(free, end)
        return False

    @property
    def _ratio(self) -> float:
        return self._held.seconds / self._held.expected if self.known else 0.0

    @property
    def _load(self) -> float:
        of = self._loaded
        return max(LEAST_LOAD, (of.seconds - self._ratio * of.expected) / of.count if of.count else 0.0)


class _Seconds:
    """Of trials that ended: their number, what they took, and what was expected."""

    def __init__(self) -> None:
        self.count, self.seconds, self.expected = 0, 0.0, 0.0

    def add(self, seconds: float, expected: float) -> None:
        self.count += 1
        self.seconds += seconds
        self.expected += expected
