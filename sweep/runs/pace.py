"""How long trials of a model take, as they were seen, and whether another worker should load it for those that wait.

At the end of a sweep workers have nothing left to do of the model that they hold. One that loads another model for a
trial that a holder would have begun a moment later makes the sweep longer, and holds a GPU for nothing. Seconds are
those from when a worker is given a trial until that has left its device; `held` is what a worker holds for its trials.
"""

from __future__ import annotations

from collections import defaultdict

LEAST_LOAD = 1.0  # seconds that a model takes to be loaded and evaluated, where no worker was seen to do it: the fewest
LATE = 3.0  # times the usual seconds, after which nobody waits for a worker any more


class Paces:
    """Mean seconds by what is held: of trials for which a worker had to load it, and of others."""

    def __init__(self) -> None:
        self._loaded: defaultdict[object, _Mean] = defaultdict(_Mean)
        self._held: defaultdict[object, _Mean] = defaultdict(_Mean)

    def ended(self, held: object, seconds: float, *, loaded: bool) -> None:
        """A trial has left its device."""
        (self._loaded if loaded else self._held)[held].add(seconds)

    def late(self, held: object, seconds: float) -> bool:
        """Whether a trial that has taken so long should have ended by now; nothing is late as long as none has."""
        usual = max(self._loaded[held].value, self._held[held].value)
        return 0 < LATE * usual < seconds

    def worth_loading(self, held: object, waiting: int, holders: int) -> bool:
        """Whether one worker more ends so many trials sooner, that else wait for so many which hold it already.

        These begin the last one when the others are shared out, and end it a trial later.
        """
        each = self._held[held].value
        if not holders or not each:
            return True
        return (self._loaded[held].value or each + LEAST_LOAD) <= (waiting / holders + 1) * each


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
