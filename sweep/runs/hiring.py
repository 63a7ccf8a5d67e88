"""How many workers there should be, and those that were asked for and have not started.

Pure bookkeeping, as the crew's. *Places* is how many workers there is room for, which may change while a cluster grows;
a worker is *hired* when it is asked for and joins the crew when it has started. The hard case is a cluster that may
grow: its autoscaler sees no demand but workers that wait for room, so some always do while trials wait for workers. On
CPUs the opposite is to be watched: workers that take the place of those of a lost node must leave the CPU on which what
that node held is built again, or trials and tasks wait for each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from math import ceil
from typing import Any

from sweep.models import ModelRef
from sweep.runs.connection import LOGS
from sweep.runs.crew import ClusterError, Crew, Handle
from sweep.runs.runner import RunOptions
from sweep.runs.schedule import ONE_KIND, Kind, held_by

FALSE_STARTS = 10  # workers that could not even start, one after the other: something is wrong with them all


class Hiring:
    """Workers for a crew. With `grows` there may be more places later; one that `asks_ahead` has more workers than
    places, which wait for room while trials wait for workers; one that `shrinks` has no more than there is room for.
    """

    def __init__(
        self,
        crew: Crew,
        *,
        grows: bool = False,
        asks_ahead: bool = False,
        shrinks: bool = False,
        kinds: tuple[Kind, ...] = (ONE_KIND,),
    ) -> None:
        self.places = self._asked = 0
        self.workers = 0  # in these places
        self.grows = grows
        self.asks_ahead = asks_ahead
        self.shrinks = shrinks
        self.kinds = kinds
        self.starting: list[Handle] = []
        self.crew = crew
        self._false_starts = 0  # in a row

    @property
    def size(self) -> int:
        """Workers that were asked for, those that have started among them."""
        return len(self.starting) + self.crew.size

    def count(self, kind: Kind) -> int:
        """Workers of a kind that were asked for."""
        if len(self.kinds) == 1:
            return self.size
        return sum(self.crew.kinds[worker] == kind for worker in (*self.starting, *self.crew.free, *self.crew.running))

    def starting_of(self, kind: Kind) -> list[Handle]:
        """Workers of a kind that have not started."""
        return [worker for worker in self.starting if self.crew.kinds[worker] == kind]

    def choose(self, kinds: Mapping[ModelRef, Kind]) -> bool:
        """Which kind of worker runs the trials of each model. Returns whether workers are of other kinds
        than before."""
        before, self.kinds = self.kinds, tuple(sorted(set(kinds.values()))) or self.kinds
        self.crew.kind_of = partial(_kind_in, kinds)
        return self.kinds != before

    @property
    def gpus(self) -> float:
        """That the workers hold, where they are on GPUs."""
        return self.places * min(self.kinds)

    def begin(self, places: int) -> None:
        """There is room for so many workers; no more than there are trials to run are of use."""
        self.places = self._asked = min(places, self._useful())
        self.workers = sum(self._shared_out(self.places).values())

    def wanted(self) -> dict[Kind, int]:
        """Workers of each kind that there should be. Those beyond `places` are the demand that an autoscaler sees: as
        many again as there is room for, so that a cluster doubles."""
        return self._shared_out(self.places + (max(1, self.places) if self.asks_ahead else 0))

    def _shared_out(self, places: int) -> dict[Kind, int]:
        """So many places as workers of each kind: those that are there and have work, then where most work waits."""
        if len(self.kinds) == 1:
            return {self.kinds[0]: min(places, self.crew.unfinished)}
        unfinished = unfinished_by_kind(self.crew)
        shared = {kind: min(self.count(kind), unfinished[kind]) for kind in self.kinds}
        left = places - sum(count * self._width(kind) for kind, count in shared.items())
        while fit := [kind for kind in self.kinds if shared[kind] < unfinished[kind] and self._width(kind) <= left]:
            chosen = max(fit, key=lambda kind: self.crew.queue.seconds(kind) / (shared[kind] + 1))
            shared[chosen] += 1
            left -= self._width(chosen)
        return shared

    def _width(self, kind: Kind) -> int:
        """Places of the smallest kind that a worker takes."""
        return ceil(kind / min(self.kinds) - 1e-9)

    def _useful(self) -> int:
        """Places that may be of use: with a worker for each trial."""
        if len(self.kinds) == 1:
            return self.crew.unfinished
        return sum(count * self._width(kind) for kind, count in unfinished_by_kind(self.crew).items())

    def surplus(self) -> list[Handle]:
        """Workers to end: of those that have not started the latest, since they wait for room that nobody needs; on a
        cluster that grows also those for which no trial waits, so that their nodes can be given back; on one that
        shrinks also those that run a trial, the last one first; of several kinds those whose trials are over."""
        crowd = max(0, self.crew.size - self.places) if self.shrinks else 0
        return [worker for kind, count in self.wanted().items() for worker in self._surplus(kind, count, crowd)]

    def _surplus(self, kind: Kind, wanted: int, crowd: int) -> list[Handle]:
        more = max(0, self.count(kind) - wanted)
        if not more and not crowd:
            return []
        starting, free, running = (
            [worker for worker in workers if len(self.kinds) == 1 or self.crew.kinds[worker] == kind]
            for workers in (self.starting, self.crew.free, self.crew.running)
        )
        count = min(len(starting), more)
        recording = [worker for worker, _ in self.crew.recorded.values()]
        idle = [worker for worker in free if worker not in recording]
        if not crowd and (not (self.grows or len(self.kinds) > 1) or waits(self.crew, kind)):
            idle = []
        idle = idle[: more - count]
        busy = running[::-1][: max(0, crowd - len(idle))]
        return [*starting[len(starting) - count :][::-1], *idle, *busy]

    def fit(self, room: int) -> None:
        """There is room for so many workers now; on GPUs places never go because a node is away."""
        if self.shrinks:
            self.places = min(max(1, room), self.crew.unfinished, *(() if self.grows else (self._asked,)))
        elif self.grows:
            self.places = max(self.places, min(room, self._useful()))
        self.workers = self.places if len(self.kinds) == 1 else max(self.workers, sum(self.wanted().values()))

    def hired(self, worker: Handle, kind: Kind = ONE_KIND) -> None:
        """A worker of a kind was asked for; it gets a trial only when it has started."""
        self.starting.append(worker)
        self.crew.kinds[worker] = kind

    def started(self, worker: Handle) -> None:
        """A worker is up and joins the crew."""
        self.starting.remove(worker)
        self.crew.joined(worker)
        self._false_starts = 0

    def did_not_start(self, worker: Handle, reason: str) -> str | None:
        """Returns what to say of many that cannot. Raises ClusterError when none is up that could go on."""
        self.starting.remove(worker)
        self.crew.kinds.pop(worker, None)
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
            self.crew.kinds.pop(worker, None)
        else:
            self.crew.left(worker)

    def disband(self) -> list[Handle]:
        """All workers, which the caller ends: none is left, neither here nor in the crew."""
        everyone = [*self.starting, *self.crew.disband()]
        self.starting = []
        return everyone


def unfinished_by_kind(crew: Crew) -> Counter[Kind]:
    """Trials that run, are recorded or wait, by the kind of worker that runs them."""
    busy = [*(run.job for run in crew.running.values()), *(job for _, job in crew.recorded.values())]
    found = Counter(crew.kind_of(held_by(job.trial)) for job in busy)
    for held, count in crew.awaiting.held.items():
        found[crew.kind_of(held)] += count
    return found + crew.queue.by_kind()


def waits(crew: Crew, kind: Kind) -> bool:
    """Whether a trial waits that workers of this kind run, for one of them or for its calibration set."""
    awaited = (crew.kind_of(held) == kind for held, count in crew.awaiting.held.items() if count)
    return bool(crew.queue.count(kind)) or any(awaited)


def _kind_in(kinds: Mapping[ModelRef, Kind], held: Any) -> Kind:
    """Of what a worker holds: a model, and requests made for it."""
    return kinds.get(held[0], ONE_KIND)


def hiring_of(crew: Crew, options: RunOptions, device: str) -> Hiring:
    """How workers are hired in a run with these options."""
    clustered, on_gpus = options.address is not None, device == "cuda"
    grows = clustered and options.workers is None
    return Hiring(
        crew,
        grows=grows,
        # on CPUs none waits for room: it would take the one that is left to rebuild what a lost node held
        asks_ahead=grows and on_gpus,
        shrinks=clustered and not on_gpus,
        kinds=(options.gpus_per_worker or ONE_KIND,),
    )
