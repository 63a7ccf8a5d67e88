"""The crew: which workers are free or run a trial, which of them died, and what each does next.

Pure bookkeeping. A worker is any handle that can be a key; whoever starts workers and makes calls tells the crew what
became of them and asks what to do. Trials whose calibration set is not there yet *wait* for it. A trial that has left
the device is *recorded* beside the next one of its worker, which is free meanwhile. The hard case is a worker that dies
in the middle of a trial: the trial is queued again, and after its third death it fails. When three trials of a model
die like this one after the other it is the model, and it is suspended. A node that takes several workers with it must
not look like that.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sweep.runs.connection import LOGS
from sweep.runs.pace import Pace
from sweep.runs.runner import RunnerError
from sweep.runs.schedule import ONE_KIND, Awaiting, Job, Kind, Queue, held_by, one_kind

Handle = Any  # of a worker: whatever can be a key

RETRIES = 2  # of a trial whose worker died
DEATHS_OF_A_MODEL = 3  # trials whose worker died, without any trial of the model finishing in between


class ClusterError(RunnerError):
    """The cluster cannot run the sweep as asked."""


@dataclass(frozen=True)
class Running:
    """A trial that a worker runs."""

    job: Job
    since: float  # seconds of the crew's clock
    loads: bool | None = False  # whether the worker loads a model for it; None: it was loading that before


class Crew:
    """The workers that have started, and the jobs. `now` is a clock that only goes forward, in seconds.

    `kind_of` says which kind of worker runs the trials of a model, `kinds` of which kind a worker is.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, kind_of: Callable[[object], Kind] = one_kind) -> None:
        self.kind_of = kind_of
        self.kinds: defaultdict[Handle, Kind] = defaultdict(lambda: ONE_KIND)
        self.queue = Queue()
        self.free: list[Handle] = []
        self.running: dict[Handle, Running] = {}
        self.recorded: dict[str, tuple[Handle, Job]] = {}  # trials whose rows are made and written, by id
        self.awaiting = Awaiting()
        self._now = now
        self._held: dict[Handle, object] = {}
        self._ahead: set[Handle] = set()  # workers that load a model, and were given no trial yet
        self._deaths = Deaths()
        self._busy: defaultdict[object, dict[Handle, Running]] = defaultdict(dict)  # `running`, by what is held
        self._paces: defaultdict[object, Pace] = defaultdict(Pace)

    @property
    def size(self) -> int:
        """Workers that have started."""
        return len(self.free) + len(self.running)

    @property
    def unfinished(self) -> int:
        """Trials that run, are recorded or wait, but for those of suspended models."""
        return len(self.queue) + len(self.awaiting) + len(self.running) + len(self.recorded)

    def busy_with(self) -> str:
        """The trials that run, for a person."""
        busy = [*(run.job for run in self.running.values()), *(job for _, job in self.recorded.values())]
        return ", ".join(str(job.trial) for job in busy) or "no trial, workers are starting"

    def begin(self, jobs: Sequence[Job], missing: Collection[str] = ()) -> None:
        """The jobs to do; those of calibration sets that are `missing` wait. Workers may have joined before."""
        self.awaiting = Awaiting(job for job in jobs if job.trial.calibration_id in missing)
        ready = (job for job in jobs if job.trial.calibration_id not in missing)
        self.queue = Queue(ready, self.kind_of, self._worth_loading)
        for held in self._held.values():
            self.queue.hold(held)
        self._paces.clear()  # what is expected of trials may come from those of the last run now

    def will_hold(self, worker: Handle, held: object) -> None:
        """A worker loads a model before there are jobs, and is given jobs of this model first."""
        self._held[worker] = held
        self._ahead.add(worker)

    def joined(self, worker: Handle) -> None:
        """A worker has started and is free."""
        self.free.append(worker)

    def left(self, worker: Handle) -> None:
        """A worker was ended; the trial that it ran waits again, and the worker's death is not held against it."""
        self.kinds.pop(worker, None)
        self._ahead.discard(worker)
        if worker in self.running:
            job = self._stopped(worker).job
            self.queue.put_back(replace(job, attempts=job.attempts + 1))
        else:
            self.free.remove(worker)
        self.queue.release(self._held.pop(worker, None))

    def disband(self) -> list[Handle]:
        """All workers, which the caller ends; the crew has none any more."""
        everyone = [*self.free, *self.running]
        self.free, self.running, self.recorded, self._held, self._ahead = [], {}, {}, {}, set()
        self.kinds.clear()
        self._busy.clear()
        return everyone

    # trials

    def assign(self) -> tuple[Handle, Job] | None:
        """A free worker and its next job, which counts as running from now on; None when either is missing.

        While a trial is recorded that has lost a worker before, its worker takes no other, which would share its end.
        A worker whose model has no trial left takes none of another that those which hold it will have ended before.
        """
        if not self.queue:
            return None
        suspects = [worker for worker, job in self.recorded.values() if job.deaths]
        able = [worker for worker in reversed(self.free) if worker not in suspects]
        at_home = next((worker for worker in able if self.queue.has(self._held.get(worker))), None)
        strangers = {self.kinds[worker]: worker for worker in reversed(able)} if at_home is None else {}
        for worker in strangers.values() if at_home is None else [at_home]:
            before = self._held.get(worker)
            if self.queue.offers(before, self.kinds[worker]):
                job = self.queue.take(before, self.kinds[worker])
                self.free.remove(worker)
                self._held[worker] = held = held_by(job.trial)
                loads = None if worker in self._ahead and held == before else held != before
                self._ahead.discard(worker)
                self.running[worker] = self._busy[held][worker] = Running(job, self._now(), loads)
                return worker, job
        return None

    def _worth_loading(self, held: object) -> bool:
        """Whether a worker that holds something else should take the trials that wait for this."""
        if not (pace := self._paces[held]).known:
            return True
        now = self._now()
        left = [
            pace.left(now - run.since, run.job.seconds, loads=run.loads is not False)
            for run in self._busy[held].values()
        ]
        return pace.worth_loading((job.seconds for job in self.queue.waiting(held)), left)

    def _stopped(self, worker: Handle) -> Running:
        """What a worker has run, and runs no more."""
        run = self.running.pop(worker)
        del self._busy[held_by(run.job.trial)][worker]
        return run

    def was_there(self, worker: Handle) -> None:
        """The job that the worker was given needs no run; nothing is known of its model by that."""
        self._stopped(worker)
        self.free.append(worker)

    def finished(self, worker: Handle) -> None:
        """A trial ended with a row of its worker's, so its model works."""
        self._works(self._stopped(worker).job)
        self.free.append(worker)

    def computed(self, worker: Handle) -> Job:
        """A worker's trial has left the device: it is recorded, and the worker is free. Returns the job."""
        run = self._stopped(worker)
        if run.loads is not None:
            pace = self._paces[held_by(run.job.trial)]
            pace.ended(self._now() - run.since, run.job.seconds, loaded=run.loads)
        self.recorded[run.job.trial.id] = worker, run.job
        self.free.append(worker)
        return run.job

    def record_over(self, job: Job, *, lost: bool) -> None:
        """The row of a trial is there, or its worker is `lost`: the call of a next trial, if any, says so as well."""
        worker, _ = self.recorded.pop(job.trial.id, (None, job))
        if not lost:
            self._works(job)
        elif worker in self.free:
            self.left(worker)

    def try_again(self, job: Job) -> bool:
        """Queue the trial of a worker that died once more; False when it has killed too many."""
        if job.deaths >= RETRIES:
            return False
        self.queue.put_back(replace(job, attempts=job.attempts + 1, deaths=job.deaths + 1))
        return True

    def _works(self, job: Job) -> None:
        held = held_by(job.trial)
        self._deaths.forget(held)
        self.queue.resume(held)

    def lost(self, worker: Handle) -> str | None:
        """The worker is gone, or cannot run another trial. Returns what to say when its model is suspended for it."""
        run = self._stopped(worker)
        self.kinds.pop(worker, None)
        self.queue.release(self._held.pop(worker, None))
        model, held = run.job.trial.model.name, held_by(run.job.trial)
        if self._deaths.count(held, run, self._now()) < DEATHS_OF_A_MODEL:
            return None
        waiting = self.queue.suspend(held)
        if not waiting:
            return None
        return (
            f"{DEATHS_OF_A_MODEL} trials of {model} one after the other killed their workers; the "
            f"{waiting} that wait are set aside for those of other models"
        )


def tried(queue: Queue) -> list[Job]:
    """Jobs of suspended models that have killed a worker: they fail."""
    return [job for job in queue.suspended() if job.deaths]


def refuse_untried(queue: Queue) -> None:
    """Raise ClusterError for jobs of suspended models that were never started: nothing is known of them."""
    untried = [job.trial for job in queue.suspended() if not job.deaths]
    if untried:
        names = ", ".join(sorted({trial.model.name for trial in untried}))
        raise ClusterError(
            f"workers died one after the other while they held {names}, so {len(untried)} more trials were not "
            f"started; see Ray's logs ({LOGS}) for memory errors. The same command tries again"
        )


class Deaths:
    """Trials whose worker died, by the model it held; forgotten when a trial of that model finishes."""

    def __init__(self) -> None:
        self._trials: dict[object, set[str]] = {}
        self._last: dict[object, float] = {}

    def count(self, held: object, run: Running, now: float) -> int:
        """Add one; returns how many trials of its model died in a row. A node that takes several workers with it
        counts once: a death counts when its trial was handed out after the last one that did."""
        trials = self._trials.setdefault(held, set())
        if run.since >= self._last.get(held, run.since):
            trials.add(run.job.trial.id)
            self._last[held] = now
        return len(trials)

    def forget(self, held: object) -> None:
        self._trials.pop(held, None)
