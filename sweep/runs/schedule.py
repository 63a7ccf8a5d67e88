"""Which trial a free worker takes next: one of the model it holds, so that models are rarely loaded.

Pure bookkeeping, without Ray. Of a model the longest trials come first, so that short ones fill the end. When a
worker's model has no trial left it goes where the most work a worker is left, so two workers start on two models and
end together on the last one. A model that kills its workers is *suspended*: its trials wait, so that the others still
get theirs. What a worker *holds* is a dense model with the requests made for it. Where models need unlike workers
(shares of a GPU), a worker is of a *kind*, and takes trials of models of its kind alone.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import TypeVar

from sweep.models import ModelRef
from sweep.plan import Trial, evaluation_key

Held = TypeVar("Held")
Kind = float  # of a worker: its GPUs, where that matters
ONE_KIND: Kind = 1.0


def one_kind(_held: object) -> Kind:
    """All models are run by the same workers."""
    return ONE_KIND


@dataclass(frozen=True)
class Job:
    """A trial to run, and how often it was started with this time counted in."""

    trial: Trial
    attempts: int = 1
    deaths: int = 0  # workers that died while they ran it
    seconds: float = 1.0  # that it is expected to take, as far as known


class Queue:
    """The jobs that wait, by the model that a worker must hold for them. `worth` tells of a model whether a worker that
    does not hold it should load it now."""

    def __init__(
        self,
        jobs: Iterable[Job] = (),
        kind_of: Callable[[object], Kind] = one_kind,
        worth: Callable[[object], bool] = lambda _held: True,
    ) -> None:
        self._kind_of, self._worth = kind_of, worth
        self._waiting: dict[object, deque[Job]] = {}
        self._seconds: defaultdict[object, float] = defaultdict(float)  # of what waits
        self._holders: Counter[object] = Counter()
        self._suspended: set[object] = set()
        self.add(jobs)

    def add(self, jobs: Iterable[Job]) -> None:
        """More jobs that may be taken; of those that are as long, earlier ones come first."""
        new: defaultdict[object, list[Job]] = defaultdict(list)
        for job in sorted(jobs, key=_longest_first):
            new[held_by(job.trial)].append(job)
            self._seconds[held_by(job.trial)] += job.seconds
        for held, more in new.items():
            self._waiting[held] = deque(heapq.merge(self._waiting.get(held, ()), more, key=_longest_first))

    def hold(self, held: object) -> None:
        """A worker holds this already."""
        self._holders[held] += 1

    def __len__(self) -> int:
        """Jobs that may be taken: those of suspended models do not count."""
        return sum(len(jobs) for key, jobs in self._waiting.items() if key not in self._suspended)

    def has(self, held: object) -> bool:
        """Whether there is a job for a worker that holds this."""
        return bool(self._waiting.get(held)) and held not in self._suspended

    def waiting(self, held: object) -> Iterable[Job]:
        """The jobs for workers that hold this, the first one first."""
        return self._waiting.get(held, ())

    def count(self, kind: Kind) -> int:
        """Jobs that workers of a kind may take."""
        return sum(len(self._waiting[key]) for key in self._open(kind))

    def by_kind(self) -> Counter[Kind]:
        """Jobs that may be taken, by the kind of worker that may."""
        found: Counter[Kind] = Counter()
        for key, jobs in self._waiting.items():
            found[self._kind_of(key)] += len(jobs) if key not in self._suspended else 0
        return found

    def seconds(self, kind: Kind) -> float:
        """That these jobs are expected to take."""
        return sum(self._seconds[key] for key in self._open(kind))

    def _open(self, kind: Kind) -> list[object]:
        return [
            key
            for key, jobs in self._waiting.items()
            if jobs and key not in self._suspended and self._kind_of(key) == kind
        ]

    def offers(self, held: object, kind: Kind) -> bool:
        """Whether `take` has a job."""
        return self.has(held) or any(map(self._worth, self._open(kind)))

    def take(self, held: object, kind: Kind = ONE_KIND) -> Job:
        """The next job for a worker of a kind that holds `held` (None: nothing yet). There must be one."""
        wanted = held
        if not self.has(held):
            self.release(held)
            wanted = max(filter(self._worth, self._open(kind)), key=self._lasts)
            self._holders[wanted] += 1
        job = self._waiting[wanted].popleft()
        self._seconds[wanted] -= job.seconds
        return job

    def ahead(self, held: object, kind: Kind = ONE_KIND) -> Job | None:
        """The job that a worker which has begun one of `held` will take next, as it looks now: those that hold the same
        will be free before it. None: there will be none."""
        if (same := self._waiting.get(held)) and held not in self._suspended:
            return same[min(max(self._holders[held], 1), len(same)) - 1]
        others = list(filter(self._worth, self._open(kind)))
        return self._waiting[max(others, key=self._lasts)][0] if others else None

    def _lasts(self, held: object) -> float:
        """Seconds until the last trial of a model would end with one worker more. It starts when the others have been
        shared out, so models of long trials get a few workers more: short trials even out the end."""
        return self._seconds[held] / (1 + self._holders[held]) + 2 * self._waiting[held][0].seconds

    def put_back(self, job: Job) -> None:
        """Queue a job whose worker died, to be taken after all of its model that are as long or longer: others tell
        which of the two kills, and a long one that waits for the end would be waited for."""
        held = held_by(job.trial)
        waiting = self._waiting.setdefault(held, deque())
        if waiting and waiting[-1].seconds < job.seconds:
            waiting.insert(sum(other.seconds >= job.seconds for other in waiting), job)
        else:
            waiting.append(job)
        self._seconds[held] += job.seconds

    def suspend(self, held: object) -> int:
        """Hand out no more jobs of this model; returns how many wait."""
        self._suspended.add(held)
        return len(self._waiting.get(held, ()))

    def resume(self, held: object) -> None:
        """Hand out jobs of this model again, if it was suspended."""
        self._suspended.discard(held)

    def suspended(self) -> list[Job]:
        """The jobs that wait for suspended models."""
        return [job for key in self._waiting if key in self._suspended for job in self._waiting[key]]

    def release(self, held: object) -> None:
        """A worker no longer holds this model: it switched, or it died."""
        if held is not None and self._holders[held] > 0:
            self._holders[held] -= 1


class Awaiting:
    """Jobs that wait for their calibration set."""

    def __init__(self, jobs: Iterable[Job] = ()) -> None:
        self._jobs: defaultdict[str | None, list[Job]] = defaultdict(list)  # by set
        self.held: Counter[object] = Counter()  # how many there are, by what a worker must hold for them
        for job in jobs:
            self._jobs[job.trial.calibration_id].append(job)
            self.held[held_by(job.trial)] += 1

    def __len__(self) -> int:
        return sum(map(len, self._jobs.values()))

    def take(self, sets: Iterable[str], model: ModelRef | None = None) -> list[Job]:
        """The jobs of these sets (of one model; None: of all), which wait no more."""
        taken = []
        for number in sets:
            jobs = self._jobs.pop(number, [])
            taken += [job for job in jobs if model in (None, job.trial.model)]
            if kept := [job for job in jobs if model not in (None, job.trial.model)]:
                self._jobs[number] = kept
        self.held.subtract(held_by(job.trial) for job in taken)
        return taken


def _longest_first(job: Job) -> float:
    return -job.seconds


def spread(work: Mapping[Held, float], places: int, kind_of: Callable[[Held], Kind] = one_kind) -> list[Held]:
    """What the workers of so many places (of the smallest kind) should hold: as a queue of such work would have them
    begin."""
    holders: Counter[Held] = Counter()
    smallest = min((kind_of(held) for held in work), default=ONE_KIND)
    width = {held: ceil(kind_of(held) / smallest - 1e-9) for held in work}
    while fit := [held for held in work if holders[held] < work[held] and width[held] <= places]:
        chosen = max(fit, key=lambda held: work[held] / (1 + holders[held]))
        holders[chosen] += 1
        places -= width[chosen]
    return list(holders.elements())


def held_by(trial: Trial) -> object:
    """What a worker holds to run this trial: the model, and the requests tokenized for it."""
    return trial.model, evaluation_key(trial)
