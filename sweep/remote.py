"""Runs trials on Ray, on this machine or a cluster: makes calls and keeps their references. The only file that imports
Ray; what is decided is decided in `sweep/runs/crew.py` and `hiring.py`.

CPU tasks build calibration sets and requests, which stay in the object store as task results: the driver owns them, so
Ray rebuilds what a lost node held. Workers are actors that each hold one dense model, loaded meanwhile, and write their
own rows; the driver hands out trials and waits. On a cluster that may grow, some workers always wait for room: the
demand that Ray's autoscaler sees. The hard case is a cluster whose head or last node is gone: it ends the sweep with a
sentence, where Ray would wait for ever, or end this process in words of its own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from calib.settings import SettingsError
from methods.lazy import Lazy
from sweep.plan import EvaluationKey, Pool, RequestSet, Trial, evaluation_key, requests_of
from sweep.results import ResultsError
from sweep.runs import connection
from sweep.runs.crew import ClusterError, Crew
from sweep.runs.errors import last_line, short_line
from sweep.runs.hiring import Hiring
from sweep.runs.interrupts import keep_signals, own_signal
from sweep.runs.model_check import check_model
from sweep.runs.outcome import Outcome, commit_failure, last_words, patient_store, there_already
from sweep.runs.prepare import requests_and_receipt, sets_and_receipt
from sweep.runs.progress import Silence
from sweep.runs.room import Room, worker_needs
from sweep.runs.runner import RunOptions, Steady
from sweep.runs.schedule import Job, spread
from sweep.runs.terminal import others_print_to
from sweep.runs.vocabulary import refuse_unknown_ids
from sweep.runs.watch import LIMITS
from sweep.runs.worker import Worker

if TYPE_CHECKING:
    import ray
else:
    ray = Lazy("ray")  # planning a study must not load it

NODES_MINUTES = 10.0  # how long a started cluster may take until its nodes have joined
QUIET_MINUTES = 10.0  # without any finished trial, until we say so
LOOK_SECONDS = 5.0  # between two looks at which nodes there are


class Actor(Worker):
    """A worker in an actor: it fetches the requests itself, and only when its model changes."""

    def process(self) -> int:
        """The number of this process; the first call, answered when the worker is ready."""
        return os.getpid()

    def run_boxed(self, trial: Trial, calibration: Any, box: Sequence[Any], attempts: int, results: str) -> Outcome:
        # a reference inside a list arrives as a reference; a plain argument would be fetched for every trial
        self.write_to(results)
        return self.run(trial, calibration, lambda: ray.get(box[0]), attempts)


class RayRunner(Steady):
    """Owns the connection to Ray, the shared objects and the workers. A `Runner`."""

    def __init__(
        self,
        results: str,
        provenance: Mapping[str, Any],
        options: RunOptions | None = None,
        notify: Callable[[str], None] = print,
    ) -> None:
        self.results = results
        self.provenance = dict(provenance)
        self.options = options or RunOptions()
        self.notify = notify
        self.workers = self._most = 0
        self.crew = Crew()
        self.hiring = Hiring(self.crew)
        self._calls: dict[Any, Any] = {}  # reference of a call -> the actor that runs it
        self._device = "cpu"
        self._held = ExitStack()
        self._looked, self._lost = 0.0, False  # when we last looked at the nodes; whether none of them answers any more
        self._sets: dict[str, Any] = {}  # calibration id -> reference to the set
        self._requests: dict[EvaluationKey, Any] = {}

    def start(self) -> str:
        """Connect to Ray, or start it here, and see what there is. Returns the device of the trials.

        On a cluster this waits until there is room for one worker; the others start when their nodes join. Raises
        SettingsError when there is no room for a worker, or here for all of those that are asked for.
        """
        connect(self.options)
        if connection.LOGS.is_dir():  # not so on a machine that is no node of the cluster
            self._held.enter_context(others_print_to(connection.LOGS / "sweep-driver.log", "ray"))
        self._device = self._room().device
        clustered, on_gpus = self.options.address is not None, self._device == "cuda"
        grows = clustered and self.options.workers is None
        # on CPUs none waits for room: it would take the one that is left to rebuild what a lost node held
        self.hiring = Hiring(self.crew, grows=grows, asks_ahead=grows and on_gpus, shrinks=clustered and not on_gpus)
        if self.options.address and not self._room().workers:
            self._wait_for_a_node()
        if shortage := self._room().shortage():
            self.notify(shortage)
        self.workers = self._most = self.options.workers or self._room().workers
        return self._device

    def _wait_for_a_node(self) -> None:
        self.hire(1)  # so that an autoscaler knows what is needed
        self.notify(self._room().wait_line(NODES_MINUTES))
        deadline = time.monotonic() + NODES_MINUTES * 60
        while not self._room().workers and time.monotonic() < deadline:
            time.sleep(5)

    def prepare(self, pools: Sequence[Pool], requests: Mapping[EvaluationKey, RequestSet]) -> None:
        """Look at the models; build all sets and requests in parallel. Raises SettingsError once one cannot be."""
        if self._device == "cuda" and any(pool.writes for pool in pools):
            self._dismiss()  # workers that stayed hold the GPUs on which models write
        cpus = 0 if self.crew.size else 1  # such workers may hold all CPUs, and wait for what is made here
        check: Any = ray.remote(num_cpus=cpus, max_retries=2)(check_model)
        build_sets: Any = ray.remote(num_cpus=cpus, max_retries=2)(sets_and_receipt)
        build_requests: Any = ray.remote(num_cpus=cpus, max_retries=2, num_returns=2)(requests_and_receipt)
        rows = [(key, u, check.remote(u.model, u.methods, u.weighed)) for key, r in requests.items() for u in r.uses]
        of_requests, of_sets = {}, []  # receipts: the largest ids
        for key, asked in requests.items():
            of_requests[key], self._requests[key] = build_requests.remote(asked.trial, self.results, asked.seqlens)
        made = {key: self._requests[key] for key in requests}  # of this study alone: workers may stay from another
        for pool in pools:
            written_on = self._device if pool.needs_device else "cpu"
            gpus = self.options.gpus_per_worker if written_on == "cuda" else 0
            task = build_sets.options(num_returns=len(pool.ids) + 1, num_gpus=gpus)
            receipt, *sets = task.remote(pool, self.results, written_on, requests_of(pool, made))
            self._sets.update(zip(pool.ids, sets, strict=True))
            of_sets.append(receipt)
        self._warm(pools, requests)
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

    def _warm(self, pools: Sequence[Pool], requests: Mapping[EvaluationKey, RequestSet]) -> None:
        """Workers start and load models while sets and requests are built, where that takes no machine from these."""
        if self._room().spare(self.workers) and not any(pool.writes for pool in pools):
            work = {(use.model, key): use.trials for key, asked in requests.items() for use in asked.uses}
            for held, reference in zip(models := spread(work, self.workers), self.hire(len(models)), strict=False):
                self.crew.will_hold(self._calls[reference], held)
                self._calls[reference].warm.remote(held[0])

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
        crew, silence = self.crew, Silence(QUIET_MINUTES)
        crew.begin(jobs)
        self.hiring.begin(self._most)
        ended: list[Outcome] = []
        try:
            while crew.unfinished:
                ended += self._hand_out()  # first, so that no worker waits while this process shows what has ended
                yield from ended
                self._look()
                self._hire_and_end()
                done = ray.wait(list(self._calls), num_returns=1, timeout=LOOK_SECONDS)[0] if self._calls else ()
                if not done and (line := silence.line(crew.busy_with())):
                    self.notify(line)
                ended = [outcome for reference in done if (outcome := self._hear(reference))]
                if ended:
                    silence.broken()
            yield from ended
            for job in crew.tried():
                yield self._give_up(job, f"its worker died, as did those of other trials of {job.trial.model.name}")
            crew.refuse_untried()
        finally:
            if not self.stay:
                self._dismiss()

    def close(self) -> None:
        """End the workers and the connection (and Ray itself, when it was started here)."""
        with self._held:
            if ray.is_initialized():
                keep_signals(self._dismiss, ray.shutdown)

    def hire(self, size: int) -> list[Any]:
        """Start workers until there are `size`; returns the references of the first calls to those that start."""
        need: Any = worker_needs(self._device, self.options)
        while self.hiring.size < size:
            actor: Any = ray.remote(**need)(Actor).remote(self.results, self.provenance, self._device, LIMITS)
            self._calls[actor.process.remote()] = actor
            self.hiring.hired(actor)
        return [reference for reference, actor in self._calls.items() if actor in self.hiring.starting]

    def _hire_and_end(self) -> None:
        """As many as are wanted. Actors that wait show demand: `request_resources` would outlive a killed driver."""
        self.workers = self.hiring.places
        self.hire(self.hiring.wanted())
        for actor in self.hiring.surplus():
            self.hiring.ended(actor)
            self._calls = {reference: other for reference, other in self._calls.items() if other is not actor}
            ray.kill(actor)

    def _dismiss(self) -> None:
        """End all workers, so that their CPUs and GPUs are free; those of a lost cluster end with it."""
        for actor in self.hiring.disband():
            if not self._lost:
                ray.kill(actor)
        self._calls = {}

    def _greet(self, reference: Any, actor: Any) -> None:
        """A worker answers for the first time, or cannot start. Raises ClusterError when none of them can."""
        try:
            ray.get(reference)
        except ray.exceptions.RayError as error:
            ray.kill(actor)
            self.notify(f"a worker could not start: {last_line(error)}")
            if line := self.hiring.did_not_start(actor, last_line(error)):
                self.notify(line)
        else:
            self.hiring.started(actor)

    def submit(self, actor: Any, job: Job) -> Any:
        """Have a worker run a trial; returns the reference of its outcome."""
        trial = job.trial
        calibration = self._sets[trial.calibration_id] if trial.calibration_id else None
        box = [self._requests[evaluation_key(trial)]]
        return actor.run_boxed.remote(trial, calibration, box, job.attempts, self.results)

    def _hand_out(self) -> list[Outcome]:
        """Give all free workers a trial; returns the outcomes of those that turn out to be there already."""
        found = []
        while assigned := self.crew.assign():
            actor, job = assigned
            if there := there_already(self.results, job):
                self.crew.was_there(actor)
                found.append(there)
            else:
                self._calls[self.submit(actor, job)] = actor
        return found

    def _hear(self, reference: Any) -> Outcome | None:
        """What a finished call says: that a worker has started, or the outcome of a trial (None: it is tried again)."""
        actor = self._calls.pop(reference)
        if actor in self.hiring.starting:
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
            return self._give_up(job, short_line(error.cause if isinstance(error.cause, Exception) else error))
        except ray.exceptions.RayError as error:  # the worker or its node is gone
            self._check_alive()
            if told := last_words(self.results, job):
                return told
            reason = last_line(error)
            if not self.crew.try_again(actor):
                return self._give_up(job, f"its worker died {job.deaths + 1} times: {reason}")
            self.notify(f"a worker died during '{job.trial}'; the trial is started again later: {reason}")
            return None
        return outcome

    def _give_up(self, job: Job, error: str) -> Outcome:
        return commit_failure(patient_store(self.results), job, error, self.provenance)

    def _room(self) -> Room:
        nodes = connection.within(ray.nodes)
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        return Room(alive, self.options, len(nodes) - len(alive))

    def _look(self) -> None:
        """Every few seconds: see that the cluster is there, and use the nodes that have joined one that grows."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._check_alive()
        self._looked = time.monotonic()
        self.hiring.fit(self._room().workers)

    def _check_alive(self) -> None:
        """Raise ClusterError when the head does not answer any more, or no node is alive."""
        address, head = self.options.address, ray.get_runtime_context().gcs_address
        gone = f"the head of Ray at {head} is gone"
        if not head or connection.answers(head, connection.patience(address)):
            gone = "" if self._room().nodes else "no node of Ray is alive any more"
        if gone:
            self._lost = True
            raise ClusterError(gone + connection.where_logs_are(address))


def connect(options: RunOptions) -> None:
    """Connect to a cluster, or start Ray here. Raises SettingsError. SIGTERM, which Ray takes, stays the caller's."""
    connection.set_environment(options)
    with own_signal(signal.SIGTERM):
        connection.establish(options, lambda: ray.init(**connection.arguments(options)), ray.shutdown)
