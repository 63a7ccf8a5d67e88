"""Runs trials on Ray, on this machine or a cluster: makes calls and keeps their references. The only file that imports
Ray; what is decided is decided in `sweep/runs/crew.py` and `hiring.py`.

CPU tasks build calibration sets and requests, which stay in the object store as task results: the driver owns them, so
Ray rebuilds what a lost node held. On one machine its own processes build them (`hands.py`), while Ray starts. Workers
are actors that each hold a dense model, loaded meanwhile. Of a trial the driver hears twice: when it has left the GPU,
and when its row is there. While a cluster may grow, some workers wait for room: the demand that its autoscaler sees.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from methods.lazy import Lazy
from sweep.models import ModelRef
from sweep.plan import EvaluationKey, Pool, RequestSet
from sweep.runs import connection
from sweep.runs.actor import GROUP, LEFT, Actor
from sweep.runs.crew import ClusterError, Crew, refuse_untried, tried
from sweep.runs.errors import last_line, short_line
from sweep.runs.hands import Hands, argument, fetched, first_there, hands_here, shared
from sweep.runs.hiring import Hiring, hiring_of
from sweep.runs.interrupts import keep_signals, own_signal
from sweep.runs.meters import Meters
from sweep.runs.nodes import LOOK_SECONDS, Nodes
from sweep.runs.outcome import Outcome, commit_failure, last_words, patient_store, there_already
from sweep.runs.preparation import WRONG, Preparation
from sweep.runs.progress import Silence
from sweep.runs.room import worker_needs
from sweep.runs.runner import RunOptions, Steady
from sweep.runs.schedule import Job, Kind, held_by, spread
from sweep.runs.terminal import others_print_to
from sweep.runs.watch import LIMITS

if TYPE_CHECKING:
    import ray
else:
    ray = Lazy("ray")  # planning a study must not load it

QUIET_MINUTES = 10.0  # without any finished trial, until we say so
POLL_SECONDS = 0.2  # between two looks at whether a worker could begin
RECORD_SECONDS = 10.0  # that the end waits for what is being written


class RayRunner(Steady):
    """Owns the connection to Ray, the shared objects and the workers. A `Runner`."""

    def __init__(
        self,
        results: str,
        provenance: Mapping[str, Any],
        options: RunOptions | None = None,
        notify: Callable[[str], None] = print,
    ) -> None:
        self.results, self.provenance = results, dict(provenance)
        self.options, self.notify = options or RunOptions(), notify
        self.workers = self._most = 0
        self.crew = Crew()
        self.hiring = Hiring(self.crew)
        self._calls: dict[Any, Any] = {}  # reference of a call -> the actor that runs it
        self._records: dict[Any, Job] = {}  # reference of a call to `recorded` -> the job
        self._device, self._held, self._here = "cpu", ExitStack(), False  # here: all was begun on this machine
        self.nodes = Nodes(ray, self.options, lambda: self.hiring.kinds)
        self.preparation = Preparation(self)
        self._hands: Hands | None = None

    def start(self) -> str:
        """Connect to Ray, or start it here; on a cluster, wait for room for one worker (others start when nodes join).
        Returns the device of the trials. Raises SettingsError without room for one, or here for all that are asked."""
        connect(self.options)
        if self._hands:
            self._hands.share_from_now()
        if connection.LOGS.is_dir():  # not so on a machine that is no node of the cluster
            self._held.enter_context(others_print_to(connection.LOGS / "sweep-driver.log", "ray"))
        self._device = self.nodes.room().device
        self.hiring = hiring_of(self.crew, self.options, self._device)
        if self.options.address and not self.nodes.room().workers:
            self.preparation.wait_for_looks(self.on_phase, requests=True)
            self.hire(1)  # so that an autoscaler knows what is needed
            self.nodes.wait_for_room(self.notify)
            self._dismiss()  # what is prepared may need its place
        self.workers = self._most = self.nodes.room().count(self.notify)
        return self._device

    def foresee(self, pools: Sequence[Pool], requests: Mapping[EvaluationKey, RequestSet]) -> None:
        """Prepare on this machine while Ray starts; for a cluster, and where a device is needed, look at all of it."""
        connection.set_environment(self.options)  # a thread of these hands may be the first to import Ray
        self._hands = hands_here(ray)
        if self._hands is None:
            return
        self._here = not self.options.address and not any(pool.needs_device for pool in pools)
        self.preparation.look(pools, requests, self.results)
        if self._here:
            self.preparation.begin(pools, requests, self.results, "cpu")

    def prepare(self, pools: Sequence[Pool], requests: Mapping[EvaluationKey, RequestSet]) -> None:
        """Build all sets and requests, at least until a worker could begin. Raises SettingsError once one cannot be. No
        worker uses its GPU, and of a cluster none is asked for, before models and sources were looked at."""
        models = [use.model for asked in requests.values() for use in asked.uses]
        if self._device == "cuda" and self.hiring.choose(self.nodes.room().kind_by_model(models)):
            self._dismiss()
            self.workers = self._most = self.nodes.room().count(self.notify)
        if (needs_device := any(pool.needs_device for pool in pools)) and self._device == "cuda":
            self._dismiss()  # workers that stayed hold the GPUs on which models are asked
        if not self._here:
            self.preparation.begin(pools, requests, self.results, self._device, in_turn=True)
        self._here = False  # what a later run needs is made by tasks, in processes that stay
        stayed = self.crew.size > 0  # then tasks ask for no CPU, and never wait for one
        beside = not (stayed or needs_device) and self.nodes.room().spare(self.workers)
        if beside and not self.options.address:
            self._hire_first(requests)
        self.preparation.wait_for_looks(self.on_phase, requests=bool(self.options.address))
        warmed = [actor.warm.remote(model) for actor, model in (self._hire_first(requests) if beside else ())]
        ready = lambda: stayed or (not self.stay and bool(self.done(warmed, 0)))  # noqa: E731
        self.preparation.wait(ready, self.on_phase, described=not (stayed or beside))

    def task(
        self, function: Callable[..., Any], *arguments: Any, returns: int, on_device: bool = False, near: bool = False
    ) -> list[Any]:
        """Like `done` and `result` one of the `Tasks` that the preparation runs."""
        if self._hands and (near or self._here):
            return self._hands.task(function, arguments, returns)
        gpus = max(self.hiring.kinds) if on_device and self._device == "cuda" else 0
        cpus = 0 if gpus or self.crew.size else 1  # workers that stay may hold all; a node with GPUs may have none
        task: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=2, num_returns=returns)(function)
        made = task.remote(*map(argument, arguments))
        return [made] if returns == 1 else made

    def done(self, references: Sequence[Any], seconds: float = POLL_SECONDS) -> list[Any]:
        if not (done := first_there(references, seconds, ray.wait)) and seconds:
            self._look()
        return done

    def result(self, reference: Any) -> Any:
        try:
            return fetched(shared(reference), ray.get)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from (None if isinstance(error.cause, WRONG) else error)
            raise
        except ray.exceptions.RayError as error:
            self.nodes.check()
            raise ClusterError(f"calibration sets and requests could not be made: {last_line(error)}") from None

    def _hire_first(self, requests: Mapping[EvaluationKey, RequestSet]) -> list[tuple[Any, ModelRef]]:
        """The first workers, unless they start already, and the model that each will hold."""
        work = {(use.model, key): use.trials for key, asked in requests.items() for use in asked.uses}
        models, first = spread(work, self.workers, self.crew.kind_of), []
        for kind in self.hiring.kinds:
            of_kind = [held for held in models if self.crew.kind_of(held) == kind]
            for held, reference in zip(of_kind, self.hire(len(of_kind), kind), strict=False):
                self.crew.will_hold(actor := self._calls[reference], held)
                first.append((actor, held[0]))
        return first

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Run the jobs on all workers; yields each outcome when its row is committed."""
        crew, silence, meters = self.crew, Silence(QUIET_MINUTES), Meters(Lazy("ray.util.metrics"))
        crew.begin(jobs, self.preparation.missing_ids)
        self.hiring.begin(self._most)
        ended: list[Outcome] = []
        try:
            while crew.unfinished:
                ended += self._hand_out()  # first, so that no worker waits while this process shows what has ended
                yield from ended
                self._look()
                self._hire_and_end()
                done = first_there([*self._calls, *self._records, *self.preparation.missing], LOOK_SECONDS, ray.wait)
                if not done and (line := silence.line(crew.busy_with())):
                    self.notify(line)
                ended = [outcome for reference in done for outcome in self._hear(reference)]
                silence.broken(ended)
                meters.show(self.hiring, ended)
            yield from ended
            for job in tried(crew.queue):
                yield self._give_up(job, f"its worker died, as did those of other trials of {job.trial.model.name}")
            refuse_untried(crew.queue)
        finally:
            if not self.stay:
                self._dismiss()
        self.preparation.wait_until_described(self.notify)

    def close(self) -> None:
        """End the workers and the connection (and Ray itself, when it was started here)."""
        with self._held:
            if self._hands:
                self._hands.close()
            if ray.is_initialized():
                keep_signals(self._dismiss, ray.shutdown)

    def hire(self, size: int, kind: Kind | None = None) -> list[Any]:
        """Start workers of a kind (the smallest) until there are `size`; the references of the first calls to them."""
        kind = self.hiring.kinds[0] if kind is None else kind
        needs = {**worker_needs(self._device, kind), "concurrency_groups": {GROUP: 1}}
        worker: Any = ray.remote(**needs)(Actor)
        while self.hiring.count(kind) < size:
            actor = worker.remote(self.results, self.provenance, self._device, LIMITS, ray.get, ray.wait)
            self._calls[actor.process.remote()] = actor
            self.hiring.hired(actor, kind)
        return [call for call, actor in self._calls.items() if actor in self.hiring.starting_of(kind)]

    def _hire_and_end(self) -> None:
        """As many as are wanted. Actors that wait show demand: `request_resources` would outlive a killed driver."""
        self.workers, self.gpus = self.hiring.workers, self.hiring.gpus
        for kind, size in self.hiring.wanted().items():
            self.hire(size, kind)
        for actor in self.hiring.surplus():
            self.hiring.ended(actor)
            self._calls = {reference: other for reference, other in self._calls.items() if other is not actor}
            ray.kill(actor)

    def _dismiss(self) -> None:
        """End all workers (those of a lost cluster end with it), once what is being recorded had a little time."""
        if self._records and not self.nodes.lost:
            ray.wait(list(self._records), num_returns=len(self._records), timeout=RECORD_SECONDS)
        for actor in self.hiring.disband():
            if not self.nodes.lost:
                ray.kill(actor)
        self._calls, self._records = {}, {}

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
        trial, needed = job.trial, self.preparation.needed_by
        calibration, requests = needed(trial)
        following = self.crew.queue.ahead(held_by(trial), self.crew.kinds[actor])
        ahead = following and (following.trial.model, [one for one in needed(following.trial) if one is not None])
        return actor.run_boxed.remote(trial, calibration, [requests], job.attempts, self.results, ahead)

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

    def _hear(self, reference: Any) -> list[Outcome]:
        """What a finished call says: outcomes, or that sets are there, a worker has started, a trial has left it."""
        if reference in self.preparation.missing:
            ready, refused = self.preparation.share_out(reference, self.crew.awaiting)
            self.crew.queue.add(ready)
            return [self._give_up(job, error, "calibration") for job, error in refused]
        if reference in self._records:
            return self._hear_of_record(reference)
        actor = self._calls.pop(reference)
        if actor in self.hiring.starting:
            self._greet(reference, actor)
            return []
        outcome = self._outcome(reference, self.crew.running[actor].job)
        if outcome == LEFT:
            job = self.crew.computed(actor)
            self._records[actor.recorded.options(concurrency_group=GROUP).remote(job.trial.id)] = job
            return []
        if isinstance(outcome, Outcome) and not outcome.broken:
            self.crew.finished(actor)
        else:
            ray.kill(actor)
            if line := self.crew.lost(actor):
                self.notify(line)
        return [outcome] if isinstance(outcome, Outcome) else []

    def _outcome(self, reference: Any, job: Job) -> Outcome | str | None:
        """The outcome of a trial, or LEFT; None when its worker died and it is tried again."""
        try:
            outcome: Outcome | str = ray.get(reference)
        except ray.exceptions.RayTaskError as error:  # not even its failed row could be written
            return self._give_up(job, short_line(error.cause if isinstance(error.cause, Exception) else error))
        except ray.exceptions.RayError as error:  # the worker or its node is gone
            return self._after_death(job, last_line(error))
        return outcome

    def _hear_of_record(self, reference: Any) -> list[Outcome]:
        outcome = self._outcome(reference, job := self._records.pop(reference))
        if job.trial.id in self.crew.recorded:
            self.crew.record_over(job, lost=False)
        return [outcome] if isinstance(outcome, Outcome) else []

    def _after_death(self, job: Job, reason: str) -> Outcome | None:
        """The outcome of a trial whose worker died, None when it is tried again."""
        self.nodes.check()
        self.crew.record_over(job, lost=True)
        if told := last_words(self.results, job):
            return told
        if not self.crew.try_again(job):
            return self._give_up(job, f"its worker died {job.deaths + 1} times: {reason}")
        self.notify(f"a worker died during '{job.trial}'; the trial is started again later: {reason}")
        return None

    def _give_up(self, job: Job, error: str, phase: str = "worker") -> Outcome:
        return commit_failure(patient_store(self.results), job, error, self.provenance, phase)

    def _look(self) -> None:
        if room := self.nodes.look():
            self.hiring.fit(room.workers)


def connect(options: RunOptions) -> None:
    """Connect to a cluster, or start Ray here. Raises SettingsError. SIGTERM, which Ray takes, stays the caller's."""
    connection.set_environment(options)
    with own_signal(signal.SIGTERM):
        connection.establish(options, lambda: ray.init(**connection.arguments(options)), ray.shutdown)
