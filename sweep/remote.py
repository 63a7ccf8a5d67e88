"""Runs trials on Ray, on this machine or a cluster: makes calls and keeps their references. The only file that imports
Ray; what is decided is decided in `sweep/runs/crew.py`.

Calibration sets and requests are built by CPU tasks and stay in the object store as task results: the driver owns
them, so Ray rebuilds what a lost node held. Workers are actors that each hold one dense model and write their own
rows; the driver hands out trials and waits. On a cluster that may grow, some workers always wait for room while trials
wait for workers: that is the demand that Ray's autoscaler sees. The hard case is a cluster whose head or last node is
gone: it ends the sweep with a sentence, where Ray itself would wait for ever, or end this process in words of its own.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from calib.settings import SettingsError
from methods.lazy import Lazy
from sweep.plan import Pool, RequestSet, Trial, evaluation_key
from sweep.results import Results, ResultsError
from sweep.runs.connection import HEAD_SECONDS, LOCAL_HEAD_SECONDS, LOGS, answers, hint, knock, where_logs_are
from sweep.runs.crew import ClusterError, Crew
from sweep.runs.errors import last_line
from sweep.runs.interrupts import keep_signals, own_signal
from sweep.runs.model_check import check_model
from sweep.runs.outcome import Outcome, commit_failure, committed
from sweep.runs.prepare import requests_and_receipt, sets_and_receipt
from sweep.runs.room import Room
from sweep.runs.runner import RunOptions
from sweep.runs.schedule import EvaluationKey, Job
from sweep.runs.terminal import others_print_to
from sweep.runs.vocabulary import refuse_unknown_ids
from sweep.runs.worker import Worker
from sweep.storage.patience import WRITE_PATIENCE

if TYPE_CHECKING:
    import ray
else:
    ray = Lazy("ray")  # planning a study must not load it

NODES_MINUTES = 10.0  # how long a started cluster may take until its nodes have joined
QUIET_MINUTES = 10.0  # without any finished trial, until we say so
LOOK_SECONDS = 5.0  # between two looks at which nodes there are
STARTS = 2  # a slow machine may need more than Ray's half minute to start it once, rarely twice

Notify = Callable[[str], None]


class Actor(Worker):
    """A worker in an actor: it fetches the requests itself, and only when its model changes."""

    def process(self) -> int:
        """The number of this process; the first call, answered when the worker is ready."""
        return os.getpid()

    def run_boxed(self, trial: Trial, calibration: Any, box: Sequence[Any], attempts: int) -> Outcome:
        # a reference inside a list arrives as a reference; a plain argument would be fetched for every trial
        return self.run(trial, calibration, lambda: ray.get(box[0]), attempts)


class RayRunner:
    """Owns the connection to Ray, the shared objects and the workers. A `Runner`."""

    def __init__(
        self,
        results: str,
        provenance: Mapping[str, Any],
        options: RunOptions | None = None,
        notify: Notify = print,
        quiet_minutes: float = QUIET_MINUTES,
    ) -> None:
        self.results = results
        self.provenance = dict(provenance)
        self.options = options or RunOptions()
        self.notify = notify
        self.quiet_minutes = quiet_minutes
        self.workers = 0
        self.crew = Crew()
        self._calls: dict[Any, Any] = {}  # reference of a call -> the actor that runs it
        self._device = "cpu"
        self._held = ExitStack()
        self._looked = 0.0  # when we last looked at the nodes
        self._lost = False  # nothing of the cluster answers any more
        self._sets: dict[str, Any] = {}  # calibration id -> reference to the set
        self._requests: dict[EvaluationKey, Any] = {}

    def start(self) -> str:
        """Connect to Ray, or start it here, and see what there is. Returns the device of the trials.

        On a cluster this waits until there is room for one worker; the others start when their nodes join. Raises
        SettingsError when there is no room for a worker, or here for all of those that are asked for.
        """
        connect(self.options)
        if LOGS.is_dir():  # not so on a machine that is no node of the cluster
            self._held.enter_context(others_print_to(LOGS / "sweep-driver.log", "ray"))
        self._device = self._room().device
        self.crew = self._new_crew()
        if self.options.address:
            self._wait_for_a_node()
        if shortage := self._room().shortage():
            self.notify(shortage)
        self.workers = self.options.workers or self._room().workers
        return self._device

    def _wait_for_a_node(self) -> None:
        if self._room().workers:
            return
        self.hire(1)  # so that an autoscaler knows what is needed
        gpus = self.options.gpus_per_worker
        self.notify(
            f"waiting up to {NODES_MINUTES:.0f} minutes for a node with {f'{gpus:g} GPU' if gpus else 'a CPU'} to join "
            "(--gpus-per-worker 0 runs on CPUs)"
        )
        deadline = time.monotonic() + NODES_MINUTES * 60
        while not self._room().workers and time.monotonic() < deadline:
            time.sleep(5)

    def prepare(self, pools: Sequence[Pool], requests: Mapping[EvaluationKey, RequestSet]) -> None:
        """Look at the models, and build all calibration sets and requests, in parallel.

        Raises SettingsError as soon as one of them cannot be.
        """
        check: Any = ray.remote(num_cpus=1, max_retries=2)(check_model)
        build_sets: Any = ray.remote(num_cpus=1, max_retries=2)(sets_and_receipt)
        build_requests: Any = ray.remote(num_cpus=1, max_retries=2, num_returns=2)(requests_and_receipt)
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
            refuse_unknown_ids(use, ray.get(reference), largest, ray.get(of_requests[key]))

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
            raise ClusterError(f"calibration sets and requests could not be made: {last_line(error)}") from None

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Run the jobs on all workers; yields each outcome when its row is committed."""
        self.crew.begin(jobs, self.workers)
        try:
            yield from self._run()
        finally:
            self._dismiss()

    def _run(self) -> Iterator[Outcome]:
        crew, last = self.crew, time.monotonic()
        while crew.unfinished:
            while assigned := crew.assign():
                if there := self._hand_out(*assigned):
                    yield there
            self._look()
            self._hire_and_end()
            if not crew.unfinished:
                break
            done, _ = ray.wait(list(self._calls), num_returns=1, timeout=LOOK_SECONDS)
            outcome = self._hear(done[0]) if done else None
            last = self._say_when_quiet(last) if not done else time.monotonic() if outcome else last
            if outcome:
                yield outcome
        for job in crew.tried():
            yield self._give_up(job, f"its worker died, as did those of other trials of {job.trial.model.name}")
        crew.refuse_untried()

    def close(self) -> None:
        """End the workers and the connection (and Ray itself, when it was started here)."""
        with self._held:
            if ray.is_initialized():
                self._dismiss()
                keep_signals(ray.shutdown)

    # workers

    def hire(self, size: int) -> list[Any]:
        """Start workers until there are `size`; returns the references of the first calls to those that start."""
        need: dict[str, Any] = {"num_cpus": 1}
        if self._device == "cuda":
            need = {"num_gpus": self.options.gpus_per_worker}
        while self.crew.size < size:
            actor: Any = ray.remote(**need)(Actor).remote(self.results, self.provenance, self._device)
            self._calls[actor.process.remote()] = actor
            self.crew.hired(actor)
        return [reference for reference, actor in self._calls.items() if actor in self.crew.starting]

    def _hire_and_end(self) -> None:
        """As many workers as the crew wants. Demand is shown by actors that wait, and not by `request_resources`,
        which would outlive a killed driver."""
        self.workers = self.crew.places
        self.hire(self.crew.wanted())
        for actor in self.crew.surplus():
            self.crew.ended(actor)
            self._calls = {reference: other for reference, other in self._calls.items() if other is not actor}
            ray.kill(actor)

    def _new_crew(self) -> Crew:
        grows = self.options.address is not None and self.options.workers is None
        # on CPUs none waits for room: it would take the one that is left to rebuild what a lost node held
        return Crew(grows=grows, asks_ahead=grows and self._device == "cuda")

    def _dismiss(self) -> None:
        """End all workers, so that their CPUs and GPUs are free; those of a lost cluster end with it."""
        for actor in () if self._lost else self.crew.members:
            ray.kill(actor)
        self.crew, self._calls = self._new_crew(), {}

    def _greet(self, reference: Any, actor: Any) -> None:
        """A worker answers for the first time, or cannot start. Raises ClusterError when none of them can."""
        try:
            ray.get(reference)
        except ray.exceptions.RayError as error:
            ray.kill(actor)
            for line in self.crew.did_not_start(actor, last_line(error)):
                self.notify(line)
        else:
            self.crew.started(actor)

    # trials

    def submit(self, actor: Any, job: Job) -> Any:
        """Have a worker run a trial; returns the reference of its outcome."""
        trial = job.trial
        calibration = self._sets[trial.calibration_id] if trial.calibration_id else None
        return actor.run_boxed.remote(trial, calibration, [self._requests[evaluation_key(trial)]], job.attempts)

    def _hand_out(self, actor: Any, job: Job) -> Outcome | None:
        """Give a worker its trial; returns the trial's outcome when it turns out to be there already."""
        there = committed(_store(self.results), job.trial, job.attempts)
        if there:
            self.crew.was_there(actor)
        else:
            self._calls[self.submit(actor, job)] = actor
        return there

    def _hear(self, reference: Any) -> Outcome | None:
        """What a finished call says: that a worker has started, or the outcome of a trial (None: it is tried again)."""
        actor = self._calls.pop(reference)
        if actor in self.crew.starting:
            self._greet(reference, actor)
            return None
        outcome = self._outcome(reference, actor)
        if outcome and not outcome.broken:
            self.crew.finished(actor)
        else:
            ray.kill(actor)
            if line := self.crew.lost(actor):
                self.notify(line)
        return outcome

    def _outcome(self, reference: Any, actor: Any) -> Outcome | None:
        """The outcome of a trial; None when its worker died and it is tried again."""
        job = self.crew.running[actor].job
        try:
            outcome: Outcome = ray.get(reference)
        except ray.exceptions.RayTaskError as error:  # not even its failed row could be written
            cause = error.cause if isinstance(error.cause, Exception) else error
            return self._give_up(job, f"{type(cause).__name__}: {' '.join(str(cause).split())[:1500]}")
        except ray.exceptions.RayError as error:  # the worker or its node is gone
            self._check_alive()
            reason = last_line(error)
            if not self.crew.try_again(actor):
                return self._give_up(job, f"its worker died {job.deaths + 1} times: {reason}")
            self.notify(f"a worker died during '{job.trial}'; the trial is started again later: {reason}")
            return None
        return outcome

    def _give_up(self, job: Job, error: str) -> Outcome:
        return commit_failure(_store(self.results), job, error, self.provenance)

    # what there is

    def _room(self) -> Room:
        return Room(_nodes(), self.options)

    def _look(self) -> None:
        """Every few seconds: see that the cluster is there, and use the nodes that have joined one that grows."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._check_alive()
        self._looked = time.monotonic()
        if self.crew.grows:
            self.crew.grow(self._room().workers)

    def _check_alive(self) -> None:
        """Raise ClusterError when the head does not answer any more, or no node is alive."""
        address, head = self.options.address, _head()
        if head and not answers(head, HEAD_SECONDS if address else LOCAL_HEAD_SECONDS):
            self._lost = True
            raise ClusterError(f"the head of Ray at {head} is gone{where_logs_are(address)}")
        if not _nodes():
            self._lost = True
            raise ClusterError(f"no node of Ray is alive any more{where_logs_are(address)}")

    def _say_when_quiet(self, last: float) -> float:
        minutes = (time.monotonic() - last) / 60
        if minutes < self.quiet_minutes:
            return last
        self.notify(
            f"nothing finished for {minutes:.0f} minutes; running: {self.crew.busy_with()}. If no worker is busy, "
            "`ray status` shows which resources are missing"
        )
        return time.monotonic()


@lru_cache(maxsize=1)
def _store(results: str) -> Results:
    """The results folder, opened once: a bucket's region is looked up over the network."""
    return Results(results, WRITE_PATIENCE)


def _nodes() -> list[Mapping[str, float]]:
    """Resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _head() -> str | None:
    """host:port of what all nodes of the cluster ask, None when Ray does not say."""
    return ray.get_runtime_context().gcs_address or None


def connect(options: RunOptions) -> None:
    """Connect to a cluster, or start Ray here. Raises SettingsError with what to do instead.

    SIGTERM stays the caller's: Ray takes it, and would end this process without a word of what is kept.
    """
    address = options.address
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # keep CUDA_VISIBLE_DEVICES in CPU tasks as it is
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
    where: dict[str, Any] = {"address": address}
    if not address:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # read on import: all ports on the loopback
        cpus = max(options.workers or 1, os.cpu_count() or 1)
        where = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    with own_signal(signal.SIGTERM):
        for start in range(1, STARTS + 1):
            try:
                if address:
                    knock(address)
                ray.init(**where, **quiet)
                return
            except Exception as error:  # Ray raises a bare one when its processes take too long to start
                ray.shutdown()
                if address or start == STARTS:
                    raise SettingsError(hint(address, error, STARTS)) from None
