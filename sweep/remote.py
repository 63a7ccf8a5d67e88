"""Runs trials on Ray, on this machine or a cluster. The only file that imports Ray.

Calibration sets and requests are built by CPU tasks and stay in the object store as task results: the driver owns
them, so Ray rebuilds what a lost node held. Workers are actors that each hold one dense model and write their own
rows; the driver hands out trials and waits. The hard case is a worker that dies in the middle of a trial: a new one
takes its place, the trial is started again, and after its third death it becomes a failed row. When three trials of a
model die like this one after the other it is the model, and its trials are set aside for those of the others. On a
cluster that may grow, some workers always wait for room while trials wait for workers: that is the demand that Ray's
autoscaler sees. A cluster whose head or last node is gone ends the sweep with a sentence: Ray itself would wait for
ever, or end this process in words of its own.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import ray
import ray.exceptions

from calib.settings import SettingsError
from sweep.plan import Pool, RequestSet, Trial, evaluation_key
from sweep.results import Results, ResultsError
from sweep.runs.model_check import check_model
from sweep.runs.prepare import make_calibration_sets, make_requests
from sweep.runs.schedule import ClusterError, Job, Queue, held_by
from sweep.runs.vocabulary import largest_in_sets, refuse_unknown_ids
from sweep.storage.patience import WRITE_PATIENCE
from sweep.trial import Outcome, Worker, committed, failed_rows

RETRIES = 2  # of a trial whose worker died
DEATHS_OF_A_MODEL = 3  # trials whose worker died, without any trial of the model finishing in between
FALSE_STARTS = 10  # workers that could not even start, one after the other: something is wrong with them all
NODES_MINUTES = 10.0  # how long a started cluster may take until its nodes have joined
QUIET_MINUTES = 10.0  # without any finished trial, until we say so
LOOK_SECONDS = 5.0  # between two looks at which nodes there are
HEAD_SECONDS = 30.0  # a cluster's head may not answer for so long; Ray ends this process after 60
LOCAL_HEAD_SECONDS = 3.0  # of a Ray that was started here, which nobody starts again
STARTS = 2  # a slow machine may need more than Ray's half minute to start it once, rarely twice

Notify = Callable[[str], None]


class _Actor(Worker):
    """A worker in an actor: it fetches the requests itself, and only when its model changes."""

    def process(self) -> int:
        """The number of this process; the first call, answered when the worker is ready."""
        return os.getpid()

    def run_boxed(self, trial: Trial, calibration: Any, box: Sequence[Any], attempts: int) -> Outcome:
        # a reference inside a list arrives as a reference; a plain argument would be fetched for every trial
        return self.run(trial, calibration, lambda: ray.get(box[0]), attempts)


@dataclass(frozen=True)
class _Run:
    """A trial that a worker runs."""

    actor: Any
    job: Job
    since: float  # time.monotonic()


@dataclass
class _Crew:
    """The workers: those that start or wait for room, those that are free, and what the others run."""

    starting: dict[Any, Any] = field(default_factory=dict)  # reference of the first call -> actor
    free: list[Any] = field(default_factory=list)
    running: dict[Any, _Run] = field(default_factory=dict)  # reference of the call -> what it runs
    held: dict[Any, object] = field(default_factory=dict)  # actor -> the model it holds
    false_starts: int = 0  # in a row

    def up(self) -> int:
        return len(self.free) + len(self.running)

    def size(self) -> int:
        return len(self.starting) + self.up()

    def actors(self) -> list[Any]:
        return [*self.starting.values(), *self.free, *(run.actor for run in self.running.values())]


class _Deaths:
    """Trials whose worker died, by the model it held; forgotten when a trial of that model finishes."""

    def __init__(self) -> None:
        self._trials: dict[object, set[str]] = {}
        self._last: dict[object, float] = {}

    def count(self, run: _Run) -> int:
        """Add one; returns how many trials of its model died in a row. A node that takes several workers with it
        counts once: a death counts when its trial was handed out after the last one that did."""
        held = held_by(run.job.trial)
        trials = self._trials.setdefault(held, set())
        if run.since >= self._last.get(held, run.since):
            trials.add(run.job.trial.id)
            self._last[held] = time.monotonic()
        return len(trials)

    def forget(self, held: object) -> None:
        self._trials.pop(held, None)


class RayRunner:
    """Owns the connection to Ray, the shared objects and the workers."""

    def __init__(
        self,
        results: str,
        provenance: Mapping[str, Any],
        *,
        address: str | None = None,
        workers: int | None = None,
        gpus_per_worker: float = 1.0,
        notify: Notify = print,
        quiet_minutes: float = QUIET_MINUTES,
    ) -> None:
        self.results = results
        self.provenance = dict(provenance)
        self.address = address
        self.asked_workers = workers
        self.gpus_per_worker = gpus_per_worker
        self.notify = notify
        self.quiet_minutes = quiet_minutes
        self.workers = 0
        self._device = "cpu"
        self._grows = address is not None and workers is None
        self._looked = 0.0  # when we last looked at the nodes
        self._lost = False  # nothing of the cluster answers any more
        self._deaths = _Deaths()
        self._sets: dict[str, Any] = {}  # calibration id -> reference to the set
        self._requests: dict[object, Any] = {}
        self._crew = _Crew()

    def start(self) -> str:
        """Connect to Ray, or start it here, and see what there is. Returns the device of the trials.

        On a cluster this waits until there is room for one worker; the others start when their nodes join. Raises
        SettingsError when there is no room for a worker, or here for all of those that are asked for.
        """
        _connect(self.address, self.asked_workers)
        has_gpus = any(node.get("GPU") for node in _nodes())
        self._device = "cuda" if self.gpus_per_worker and (has_gpus or self.address) else "cpu"
        if self.address and not self._room():
            self._hire(1)  # so that an autoscaler knows what is needed
            kind = f"{self.gpus_per_worker:g} GPU" if self.gpus_per_worker else "a CPU"
            self.notify(
                f"waiting up to {NODES_MINUTES:.0f} minutes for a node with {kind} to join "
                "(--gpus-per-worker 0 runs on CPUs)"
            )
        deadline = time.monotonic() + NODES_MINUTES * 60
        while self.address and not self._room() and time.monotonic() < deadline:
            time.sleep(5)
        self.check_room()
        self.workers = self.asked_workers or self._room()
        return self._device

    def check_room(self) -> None:
        """Raise SettingsError when the machines have no room for the workers that are asked for."""
        asked, room = self.asked_workers or 1, self._room()
        if asked <= room:
            return
        have = f"{sum(node.get('GPU', 0) for node in _nodes()):g} GPUs and "
        have += f"{sum(node.get('CPU', 0) for node in _nodes()):g} CPUs, room for {room} workers"
        each = f" of {self.gpus_per_worker:g} GPUs each" if self._device == "cuda" else ""
        if self.address and room:
            self.notify(f"the cluster has {have}{each}; the other {asked - room} start when nodes join")
            return
        raise SettingsError(
            f"--workers {asked}: there are {have}{each}; ask for fewer workers or another --gpus-per-worker"
            + (", or see `ray status` for nodes that have not joined" if self.address else "")
        )

    def _room(self) -> int:
        """Workers that the nodes have room for."""
        nodes = _nodes()
        gpus = [node.get("GPU", 0.0) for node in nodes]
        if self.gpus_per_worker and (any(gpus) or self.address):
            return sum(int(count / self.gpus_per_worker + 1e-9) for count in gpus)
        cpus = sum(int(node.get("CPU", 0.0)) for node in nodes)
        return cpus - 1 if len(nodes) > 1 else cpus  # one is left to rebuild what a lost node held

    def prepare(self, pools: Sequence[Pool], requests: Mapping[Any, RequestSet]) -> None:
        """Look at the models, and build all calibration sets and requests, in parallel.

        Raises SettingsError as soon as one of them cannot be.
        """
        check: Any = ray.remote(num_cpus=1, max_retries=2)(check_model)
        build_sets: Any = ray.remote(num_cpus=1, max_retries=2)(_sets_task)
        build_requests: Any = ray.remote(num_cpus=1, max_retries=2, num_returns=2)(_requests_task)
        rows = [(key, use, check.remote(use.model, use.methods)) for key, r in requests.items() for use in r.uses]
        of_requests, of_sets = {}, []  # receipts: the largest ids
        for key, asked in requests.items():
            of_requests[key], self._requests[key] = build_requests.remote(asked.trial, self.results, asked.seqlens)
        for pool in pools:
            receipt, *sets = build_sets.options(num_returns=len(pool.ids) + 1).remote(pool, self.results)
            self._sets.update(zip(pool.ids, sets, strict=True))
            of_sets.append(receipt)
        waiting = [*(reference for _, _, reference in rows), *of_requests.values(), *of_sets]
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=LOOK_SECONDS)
            if not done:
                self._check_alive()
            for reference in done:
                self._raise_what_is_wrong(reference)
        largest = {number: found for receipt in ray.get(of_sets) for number, found in receipt.items()}
        for key, use, reference in rows:
            given = [largest[number] for number in use.calibration_ids if number in largest]
            refuse_unknown_ids(use.model, ray.get(reference), [*given, *ray.get(of_requests[key])])

    def _raise_what_is_wrong(self, reference: Any) -> None:
        """Wait for a task; what it found wrong with settings or results is raised as it was."""
        try:
            ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SettingsError | ResultsError | OSError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            self._check_alive()
            raise ClusterError(f"calibration sets and requests could not be made: {_reason(error)}") from None

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Run the jobs on all workers; yields each outcome when its row is committed."""
        queue = Queue(jobs)
        self.workers = min(self.workers, len(queue))
        try:
            yield from self._run(queue, self._crew)
        finally:
            self._dismiss()

    def _run(self, queue: Queue, crew: _Crew) -> Iterator[Outcome]:
        last = time.monotonic()
        while queue or crew.running:
            while queue and crew.free:
                yield from self._hand_out(crew.free.pop(), queue)
            self._look(queue)
            wanted = min(self.workers + self._spare(), len(queue) + len(crew.running))
            self._hire(wanted)
            self._let_go(wanted)
            if not crew.running and not queue:
                break
            done, _ = ray.wait([*crew.running, *crew.starting], num_returns=1, timeout=LOOK_SECONDS)
            if not done:
                last = self._say_when_quiet(last)
            for outcome in self._hear(done[0], queue) if done else ():
                last = time.monotonic()
                yield outcome
        yield from self._leave_aside(queue)

    def close(self) -> None:
        """End the workers and the connection (and Ray itself, when it was started here)."""
        if ray.is_initialized():
            self._dismiss()
            with _own_signal(signal.SIGTERM):
                ray.shutdown()

    def _dismiss(self) -> None:
        """End all workers, so that their CPUs and GPUs are free; those of a lost cluster end with it."""
        for actor in () if self._lost else self._crew.actors():
            ray.kill(actor)
        self._crew = _Crew()

    def _hire(self, size: int) -> None:
        """Start workers until there are `size`. A worker gets its first trial when it answers, so a trial is never
        bound to a worker that the cluster has no room for."""
        need: dict[str, Any] = {"num_gpus": self.gpus_per_worker} if self._device == "cuda" else {"num_cpus": 1}
        while self._crew.size() < size:
            actor: Any = ray.remote(**need)(_Actor).remote(self.results, self.provenance, self._device)
            self._crew.starting[actor.process.remote()] = actor

    def _spare(self) -> int:
        """How many workers may wait for room beyond what there is: as many as there are, so that a cluster doubles.

        Actors, and not `request_resources`, which would outlive a killed driver. On CPUs none, since it would take the
        one that is left to rebuild what a lost node held; there, --workers asks for more.
        """
        return max(1, self.workers) if self._grows and self._device == "cuda" else 0

    def _let_go(self, size: int) -> None:
        """End workers that have not started, the latest first, until there are `size` at most."""
        while self._crew.starting and self._crew.size() > size:
            _, actor = self._crew.starting.popitem()
            ray.kill(actor)

    def _look(self, queue: Queue) -> None:
        """Every few seconds: see that the cluster is there, and use the nodes that have joined one that grows."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._check_alive()
        self._looked = time.monotonic()
        if self._grows:
            self.workers = max(self.workers, min(self._room(), len(queue) + len(self._crew.running)))

    def _check_alive(self) -> None:
        """Raise ClusterError when the head does not answer any more, or no node is alive."""
        head, patience = _head(), HEAD_SECONDS if self.address else LOCAL_HEAD_SECONDS
        since = time.monotonic()
        while head and not _answers(head):
            if time.monotonic() - since > patience:
                self._lost = True
                raise ClusterError(f"the head of Ray at {head} is gone{_own_logs(self.address)}")
            time.sleep(1)
        if not _nodes():
            self._lost = True
            raise ClusterError(f"no node of Ray is alive any more{_own_logs(self.address)}")

    def _hand_out(self, actor: Any, queue: Queue) -> Iterator[Outcome]:
        """Give a free worker its next trial; yields the trial's outcome when it turns out to be there already."""
        crew = self._crew
        job = queue.take(crew.held.get(actor))
        crew.held[actor] = held_by(job.trial)
        if there := committed(_store(self.results), job.trial, job.attempts):
            crew.free.append(actor)
            yield there
        else:
            crew.running[self._submit(actor, job)] = _Run(actor, job, time.monotonic())

    def _hear(self, reference: Any, queue: Queue) -> Iterator[Outcome]:
        """What a finished call says: that a worker has started, or the outcome of a trial (or neither)."""
        crew = self._crew
        if reference in crew.starting:
            self._greet(reference, crew.starting.pop(reference))
            return
        run = crew.running.pop(reference)
        held = held_by(run.job.trial)
        outcome, dead = self._collect(reference, run.job, queue)
        if dead:
            queue.release(crew.held.pop(run.actor, None))
            ray.kill(run.actor)
            if self._deaths.count(run) >= DEATHS_OF_A_MODEL:
                self._set_aside(run.job.trial, queue)
        else:
            crew.free.append(run.actor)
            self._deaths.forget(held)
            queue.bring_back(held)
        if outcome is not None:
            yield outcome

    def _greet(self, reference: Any, actor: Any) -> None:
        """A worker answers for the first time, or cannot start. Raises ClusterError when none of them can."""
        crew = self._crew
        try:
            ray.get(reference)
        except ray.exceptions.RayError as error:
            ray.kill(actor)
            crew.false_starts += 1
            self.notify(f"a worker could not start: {_reason(error)}")
            if crew.false_starts >= FALSE_STARTS:
                self._do_with_those_that_are_up(_reason(error))
        else:
            crew.free.append(actor)
            crew.false_starts = 0

    def _do_with_those_that_are_up(self, reason: str) -> None:
        crew = self._crew
        if not crew.up():
            raise ClusterError(
                f"{crew.false_starts} workers one after the other could not start: {reason}; "
                "see Ray's logs (/tmp/ray/session_latest/logs) for memory or start-up errors"
            )
        self.notify(f"{crew.false_starts} workers one after the other could not start; going on with {crew.up()}")
        self.workers, self._grows, crew.false_starts = crew.up(), False, 0

    def _set_aside(self, trial: Trial, queue: Queue) -> None:
        waiting = queue.set_aside(held_by(trial))
        if waiting:
            self.notify(
                f"{DEATHS_OF_A_MODEL} trials of {trial.model.name} one after the other killed their workers; the "
                f"{waiting} that wait are set aside for those of other models"
            )

    def _leave_aside(self, queue: Queue) -> Iterator[Outcome]:
        """What was set aside to the end: trials that killed a worker fail; those that were never started get no row,
        since nothing is known of them. Raises ClusterError when there are such."""
        untried = []
        for job in queue.aside():
            if job.deaths:
                yield self._give_up(job, f"its worker died, as did those of other trials of {job.trial.model.name}")
            else:
                untried.append(job.trial)
        if untried:
            names = ", ".join(sorted({trial.model.name for trial in untried}))
            raise ClusterError(
                f"workers died one after the other while they held {names}, so {len(untried)} more trials were not "
                "started; see Ray's logs (/tmp/ray/session_latest/logs) for memory errors. The same command tries again"
            )

    def _submit(self, actor: Any, job: Job) -> Any:
        trial = job.trial
        calibration = self._sets[trial.calibration_id] if trial.calibration_id else None
        return actor.run_boxed.remote(trial, calibration, [self._requests[evaluation_key(trial)]], job.attempts)

    def _collect(self, reference: Any, job: Job, queue: Queue) -> tuple[Outcome | None, bool]:
        """The outcome of a trial (None: it was queued again), and whether its worker must be replaced."""
        try:
            outcome = ray.get(reference)
        except ray.exceptions.RayTaskError as error:  # not even its failed row could be written
            cause = error.cause if isinstance(error.cause, Exception) else error
            return self._give_up(job, f"{type(cause).__name__}: {' '.join(str(cause).split())[:1500]}"), True
        except ray.exceptions.RayError as error:  # the worker or its node is gone
            self._check_alive()
            if job.deaths < RETRIES:
                self.notify(f"a worker died during '{job.trial}'; the trial is started again later: {_reason(error)}")
                queue.put_back(replace(job, attempts=job.attempts + 1, deaths=job.deaths + 1))
                return None, True
            return self._give_up(job, f"its worker died {job.deaths + 1} times: {_reason(error)}"), True
        return outcome, outcome.broken

    def _give_up(self, job: Job, error: str) -> Outcome:
        """Commit a failed row for a trial whose worker could not."""
        rows, results = failed_rows(job.trial, "worker", error), _store(self.results)
        try:
            if there := committed(results, job.trial, job.attempts):
                return there  # the worker died after its last write
            results.commit({**rows.trial, **self.provenance, "attempts": job.attempts})
        except OSError as second:
            error += f"; nor could its row be written: {second}"
        return Outcome(job.trial, "failed", job.attempts, error=error, phase="worker")

    def _say_when_quiet(self, last: float) -> float:
        minutes = (time.monotonic() - last) / 60
        if minutes < self.quiet_minutes:
            return last
        names = ", ".join(str(run.job.trial) for run in self._crew.running.values()) or "no trial, workers are starting"
        self.notify(
            f"nothing finished for {minutes:.0f} minutes; running: {names}. If no worker is busy, `ray status` shows "
            "which resources are missing"
        )
        return time.monotonic()


@lru_cache(maxsize=1)
def _store(results: str) -> Results:
    """The results folder, opened once: a bucket's region is looked up over the network."""
    return Results(results, WRITE_PATIENCE)


def _reason(error: BaseException) -> str:
    """Why a worker died: the last line of what Ray says, where the cause stands under its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("The actor never ran")]
    return (told or [type(error).__name__])[-1][:500]


def _sets_task(pool: Pool, results: str) -> tuple[Any, ...]:
    """The largest ids, so that the driver can wait without fetching tokens, and then the sets one by one."""
    sets = make_calibration_sets(pool, results)
    return (largest_in_sets(sets), *sets)


def _requests_task(trial: Trial, results: str, seqlens: Sequence[int]) -> tuple[Any, Any]:
    data = make_requests(trial, results, seqlens)
    return (data.largest_ids, data)


def _nodes() -> list[Mapping[str, float]]:
    """Resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _head() -> str | None:
    """host:port of what all nodes of the cluster ask, None when Ray does not say."""
    return ray.get_runtime_context().gcs_address or None


def _answers(address: str) -> bool:
    try:
        _knock(address)
    except OSError:
        return False
    return True


def _own_logs(address: str | None) -> str:
    return "" if address else " (killed, or out of memory? Its logs are in /tmp/ray/session_latest/logs)"


def _connect(address: str | None, workers: int | None) -> None:
    """Connect to a cluster, or start Ray here. Raises SettingsError with what to do instead.

    SIGTERM stays the caller's: Ray takes it, and would end this process without a word of what is kept.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # keep CUDA_VISIBLE_DEVICES in CPU tasks as it is
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
    where: dict[str, Any] = {"address": address}
    if not address:
        cpus = max(workers or 1, os.cpu_count() or 1)
        where = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    with _own_signal(signal.SIGTERM):
        for start in range(1, STARTS + 1):
            try:
                if address:
                    _knock(address)
                ray.init(**where, **quiet)
                return
            except Exception as error:  # Ray raises a bare one when its processes take too long to start
                ray.shutdown()
                if address or start == STARTS:
                    raise SettingsError(_connection_hint(address, error)) from None


@contextmanager
def _own_signal(number: int) -> Iterator[None]:
    """What this process does with a signal is afterwards what it was, whatever is set meanwhile (Ray exits with it)."""
    before = signal.getsignal(number)
    try:
        yield
    except SystemExit as left:
        if left.code != number:
            raise
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():  # elsewhere nobody could have set another
            signal.signal(number, before)


def _knock(address: str) -> None:
    """Raise OSError when nobody listens at host:port; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "://" not in address:
        socket.create_connection((host, int(port)), timeout=10).close()


def _connection_hint(address: str | None, error: Exception) -> str:
    reason = " ".join(str(error).split())[:400]
    if "auth" in reason.lower() or "token" in reason.lower():
        return (
            f"--address {address}: the cluster asks for a token ({reason}); set RAY_AUTH_MODE=token and copy the "
            "cluster's ~/.ray/auth_token here, or set RAY_AUTH_TOKEN"
        )
    if address:
        return (
            f"--address {address}: no Ray cluster answers ({reason}); start one with `ray start --head`, "
            "or leave --address out"
        )
    return f"Ray cannot be started here, tried {STARTS} times ({reason}); --local runs the same study without it"
