"""Which trial a free worker takes next: one of the model it holds, so that models are rarely loaded.

Pure bookkeeping, without Ray. When a worker's model has no trial left it goes where the most trials a worker are left,
so two workers start on two models and end together on the last one. A model that kills its workers is *suspended*: its
trials wait, so that the others still get theirs. What a worker *holds* is a dense model with the requests made for it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from sweep.plan import Trial, evaluation_key


@dataclass(frozen=True)
class Job:
    """A trial to run, and how often it was started with this time counted in."""

    trial: Trial
    attempts: int = 1
    deaths: int = 0  # workers that died while they ran it


class Queue:
    """The jobs that wait, by the model that a worker must hold for them."""

    def __init__(self, jobs: Iterable[Job] = ()) -> None:
        self._waiting: dict[object, deque[Job]] = {}
        self._holders: Counter[object] = Counter()
        self._suspended: set[object] = set()
        for job in jobs:
            self._waiting.setdefault(held_by(job.trial), deque()).append(job)

    def __len__(self) -> int:
        """Jobs that may be taken: those of suspended models do not count."""
        return sum(len(jobs) for key, jobs in self._waiting.items() if key not in self._suspended)

    def take(self, held: object) -> Job:
        """The next job for a worker that holds `held` (None: nothing yet). The queue must not be empty."""
        if self._waiting.get(held) and held not in self._suspended:
            return self._waiting[held].popleft()
        self.release(held)
        wanted = max(
            (key for key, jobs in self._waiting.items() if jobs and key not in self._suspended),
            key=lambda key: len(self._waiting[key]) / (1 + self._holders[key]),
        )
        self._holders[wanted] += 1
        return self._waiting[wanted].popleft()

    def put_back(self, job: Job) -> None:
        """Queue a job whose worker died, to be taken last of its model's: the others tell which of the two kills."""
        self._waiting.setdefault(held_by(job.trial), deque()).append(job)

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


def held_by(trial: Trial) -> object:
    """What a worker holds to run this trial: the model, and the requests tokenized for it."""
    return trial.model, evaluation_key(trial)
