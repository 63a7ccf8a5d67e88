"""How many workers there should be, and those that were asked for and have not started.

Pure bookkeeping, as the crew's. *Places* is how many workers there is room for, which may change while a cluster grows;
a worker is *hired* when it is asked for and joins the crew when it has started. The hard case is a cluster that may
grow: its autoscaler sees no demand but workers that wait for room, so some always do while trials wait for workers. On
CPUs the opposite is to be watched: workers that take the place of those of a lost node must leave the CPU on which what
that node held is built again, or trials and tasks wait for each other.
"""

from __future__ import annotations

from sweep.runs.connection import LOGS
from sweep.runs.crew import ClusterError, Crew, Handle

FALSE_STARTS = 10  # workers that could not even start, one after the other: something is wrong with them all


class Hiring:
    """Workers for a crew. With `grows` there may be more places later; one that `asks_ahead` has more workers than
    places, which wait for room while trials wait for workers; one that `shrinks` has no more than there is room for.
    """

    def __init__(self, crew: Crew, *, grows: bool = False, asks_ahead: bool = False, shrinks: bool = False) -> None:
        self.places = self._asked = 0
        self.grows = grows
        self.asks_ahead = asks_ahead
        self.shrinks = shrinks
        self.starting: list[Handle] = []
        self.crew = crew
        self._false_starts = 0  # in a row

    @property
    def size(self) -> int:
        """Workers that were asked for, those that have started among them."""
        return len(self.starting) + self.crew.size

    def begin(self, places: int) -> None:
        """There is room for so many workers; no more than there are trials to run are of use."""
        self.places = self._asked = min(places, self.crew.unfinished)

    def wanted(self) -> int:
        """Workers that there should be. Those beyond `places` are the demand that an autoscaler sees: as many again as
        there is room for, so that a cluster doubles."""
        more = max(1, self.places) if self.asks_ahead else 0
        return min(self.places + more, self.crew.unfinished)

    def surplus(self) -> list[Handle]:
        """Workers to end: of those that have not started the latest, since they wait for room that nobody needs; on a
        cluster that grows also those for which no trial waits, so that their nodes can be given back; on one that
        shrinks also those that run a trial, the last one first."""
        more = max(0, self.size - self.wanted())
        count = min(len(self.starting), more)
        crowd = max(0, self.crew.size - self.places) if self.shrinks else 0
        recording = [worker for worker, _ in self.crew.recorded.values()]
        idle = [worker for worker in self.crew.free if worker not in recording]
        if not crowd and (not self.grows or self.crew.queue or self.crew.awaiting):
            idle = []
        idle = idle[: more - count]
        busy = [*self.crew.running][::-1][: max(0, crowd - len(idle))]
        return [*self.starting[len(self.starting) - count :][::-1], *idle, *busy]

    def fit(self, room: int) -> None:
        """There is room for so many workers now; on GPUs places never go because a node is away."""
        if self.shrinks:
            self.places = min(max(1, room), self.crew.unfinished, *(() if self.grows else (self._asked,)))
        elif self.grows:
            self.places = max(self.places, min(room, self.crew.unfinished))

    def hired(self, worker: Handle) -> None:
        """A worker was asked for; it gets a trial only when it has started."""
        self.starting.append(worker)

    def started(self, worker: Handle) -> None:
        """A worker is up and joins the crew."""
        self.starting.remove(worker)
        self.crew.joined(worker)
        self._false_starts = 0

    def did_not_start(self, worker: Handle, reason: str) -> str | None:
        """Returns what to say of many that cannot. Raises ClusterError when none is up that could go on."""
        self.starting.remove(worker)
        self._false_starts += 1
        if self._false_starts < FALSE_STARTS:
            return None
        count = f"{self._false_starts} workers one after the other could not start"
        up = self.crew.size
        if not up:
            raise ClusterError(f"{count}: {reason}; see Ray's logs ({LOGS}) for memory or start-up errors")
        self.places, self.grows, self.asks_ahead, self._false_starts = up, False, False, 0
        return f"{count}; going on with {up}"

    def ended(self, worker: Handle) -> None:
        """A worker was ended: one that had not started, was free, or ran a trial, which waits again."""
        if worker in self.starting:
            self.starting.remove(worker)
        else:
            self.crew.left(worker)

    def disband(self) -> list[Handle]:
        """All workers, which the caller ends: none is left, neither here nor in the crew."""
        everyone = [*self.starting, *self.crew.disband()]
        self.starting = []
        return everyone
