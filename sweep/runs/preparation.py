"""What trials wait for, made by tasks on any machine: models looked at, requests, and calibration sets one by one.

Trials of a set may run when the set is there. Requests and models are waited for before the first trial, and so are
sets as long as no worker could begin; what is wrong with them ends the launch then, and is a failed row of their trials
later. What describes the sets is nobody's business before the end. Nothing here knows what runs the tasks (`Tasks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from calib.settings import SettingsError, one_line
from sweep.models import ModelRef
from sweep.plan import EvaluationKey, ModelUse, Pool, RequestSet, Trial, evaluation_key, requests_of
from sweep.results import ResultsError
from sweep.runs.errors import short_line
from sweep.runs.first_look import look_at_pool, look_at_texts, worth_a_look
from sweep.runs.hands import shared
from sweep.runs.model_check import check_model
from sweep.runs.phases import REQUESTS, OnPhase, nobody, of_requests, of_sets
from sweep.runs.prepare import (
    check_reader,
    describe_pool,
    made_sets_and_receipt,
    make_on_device,
    requests_and_receipt,
    sets_and_receipt,
)
from sweep.runs.runner import RunnerError
from sweep.runs.schedule import Awaiting, Job
from sweep.runs.vocabulary import refuse_unknown_ids

Reference = Any  # to what a task returns: whatever can be a key
WRONG = (SettingsError, ResultsError, OSError)  # what tasks find wrong with a study or a folder


class Tasks(Protocol):
    """Runs functions elsewhere."""

    def task(
        self, function: Callable[..., Any], *arguments: Any, returns: int, on_device: bool = False, near: bool = False
    ) -> list[Reference]:
        """Begin a task, `near` for one that is best run on this machine; references to what it will return. Arguments
        may be such references."""

    def done(self, references: Sequence[Reference]) -> list[Reference]:
        """Those that are there: at least one, or none after a moment."""

    def result(self, reference: Reference) -> Any:
        """What a task returned; what it found wrong is raised as it was."""


class Preparation:
    """References to all sets and requests, of this study and of earlier ones."""

    def __init__(self, tasks: Tasks) -> None:
        self.tasks = tasks
        self.sets: dict[str, Reference] = {}  # by calibration id
        self.requests: dict[EvaluationKey, Reference] = {}
        self.missing: dict[Reference, Pool] = {}  # receipts of sets that are not there yet
        self._described: dict[Reference, Reference] = {}  # receipt of sets -> the task that describes them
        self._readers = ""  # the models whose requests are made
        self._looked = False  # `look` was told of the run that `begin` will be told of
        self._checks: list[tuple[EvaluationKey, ModelUse, Reference]] = []
        self._looks: list[Reference] = []  # at sources and held-out texts
        self._later: Callable[[], None] | None = None  # begins what `begin` has left to `wait`
        self._largest: dict[EvaluationKey, Reference] = {}
        self._made_for: dict[EvaluationKey, str] = {}  # the folder whose trials the requests were compared with
        self._read_again: list[Reference] = []  # checks of models whose requests are there
        self._uses: list[tuple[ModelUse, int]] = []  # with the rows of the model's embedding

    @property
    def missing_ids(self) -> set[str]:
        """Calibration sets that are not there yet."""
        return {number for pool in self.missing.values() for number in pool.ids}

    def needed_by(self, trial: Trial) -> tuple[Reference | None, Reference]:
        """The calibration set of a trial whose set is there, if it has one, and its requests."""
        calibration = shared(self.sets[trial.calibration_id]) if trial.calibration_id else None
        return calibration, shared(self.requests[evaluation_key(trial)])

    def look(self, pools: Sequence[Pool], requests: Mapping[EvaluationKey, RequestSet], results: str) -> None:
        """Begin to look at all that a run needs, of which `begin` will be told: models, sources and texts; and make its
        requests, which nothing is known of without reading their data."""
        task, self._looked = partial(self.tasks.task, near=True), True
        self._readers = of_requests({key: a for key, a in requests.items() if self._made_for.get(key) != results})
        self._checks = []
        for key, asked in requests.items():
            first = asked.trial.evaluation.first_blocks
            for use in asked.uses:
                checked = task(check_model, use.model, use.methods, use.weighed, first, returns=1)
                self._checks.append((key, use, *checked))
        self._looks = [look for pool in worth_a_look(pools) for look in task(look_at_pool, pool, results, returns=1)]
        self._looks += [look for asked in requests.values() for look in task(look_at_texts, asked.trial, returns=1)]
        self._read_again = []
        for key, asked in requests.items():
            arguments = asked.trial, results, asked.seqlens
            if self._made_for.get(key) == results:  # by an earlier run
                self._read_again += task(check_reader, *arguments, returns=1)
                continue
            made = task(requests_and_receipt, *arguments, returns=2)
            (self._largest[key], self.requests[key]), self._made_for[key] = made, results

    def begin(
        self,
        pools: Sequence[Pool],
        requests: Mapping[EvaluationKey, RequestSet],
        results: str,
        device: str,
        *,
        in_turn: bool = False,
    ) -> None:
        """Begin all tasks, those of `look` unless they have begun; `in_turn`, those that need requests are left to
        `wait`, which begins them when requests are there. Where a model is asked it is on `device`."""
        if not self._looked:
            self.look(pools, requests, results)
        self._looked = False
        of_study = {key: self.requests[key] for key in requests}
        self.missing, self._described = {}, {}
        for pool in pools:
            if not pool.excludes:
                self._make(pool, results, device, None)
        self._later = partial(self._begin_later, pools, of_study, results, device)
        if not in_turn:
            self._complete()

    def _complete(self) -> None:
        """Begin what was left for later, if anything was."""
        later, self._later = self._later, None
        if later:
            later()

    def _begin_later(
        self, pools: Sequence[Pool], of_study: Mapping[EvaluationKey, Reference], results: str, device: str
    ) -> None:
        """Begin what needs requests: sets that leave out what is evaluated, then what describes all sets."""
        for pool in pools:
            if pool.excludes:
                self._make(pool, results, device, requests_of(pool, of_study))
        for receipt, pool in self.missing.items():
            on, where = bool(pool.describers), device if pool.describers else "cpu"
            data, sets = requests_of(pool, of_study), [self.sets[number] for number in pool.ids]
            (self._described[receipt],) = self.tasks.task(
                describe_pool, pool, results, where, data, *sets, returns=1, on_device=on
            )

    def _make(self, pool: Pool, results: str, device: str, data: Reference | None) -> None:
        """Receipt and sets. What a lost node held is made again by the task that returned it, so that one must not ask
        for a device: workers hold them all, and wait for the set."""
        task, count = self.tasks.task, len(pool.ids) + 1
        if device == "cpu" or not pool.asks_model:
            receipt, *sets = task(sets_and_receipt, pool, results, "cpu", data, returns=count)
        else:
            (made,) = task(make_on_device, pool, results, device, data, returns=1, on_device=True)
            receipt, *sets = task(made_sets_and_receipt, made, pool, results, data, returns=count)
        self.missing[receipt] = pool
        self.sets.update(zip(pool.ids, sets, strict=True))

    def wait_for_looks(self, on_phase: OnPhase = nobody, *, requests: bool = False) -> None:
        """Until models, sources and texts were looked at, and with `requests` these are there. Raises what is wrong."""
        if self._readers:
            on_phase(REQUESTS, self._readers)
        checks = [check for _, _, check in self._checks]
        made = [*self._read_again, *self._largest.values()] if requests else ()
        self._wait_for([*checks, *self._looks, *made])

    def wait(self, ready: Callable[[], bool], on_phase: OnPhase = nobody, *, described: bool = False) -> None:
        """Until all is there, or all but some sets and a worker is `ready`; with `described` also until the sets are
        described. Raises what is wrong."""
        self.wait_for_looks(on_phase, requests=True)
        self._complete()
        self._uses = [(use, self.tasks.result(check)) for _, use, check in self._checks]
        for (key, _, _), (use, rows) in zip(self._checks, self._uses, strict=True):
            refuse_unknown_ids(use, rows, {}, self.tasks.result(self._largest[key]))
        while self.missing and not ready():
            on_phase(*of_sets(list(self.missing.values())))
            for receipt in self.tasks.done(list(self.missing)):
                for _, error in self._wrong_with(receipt):
                    raise error
                del self.missing[receipt]
        if described:
            self._wait_for(list(self._described.values()))

    def share_out(self, receipt: Reference, awaiting: Awaiting) -> tuple[list[Job], list[tuple[Job, str]]]:
        """Of the jobs that await the sets of a receipt those that may run, and those that cannot with the reason.

        Where no job awaits sets that cannot be made, the end says so: what describes them cannot be made either.
        """
        refused: list[tuple[Job, str]] = []
        ids = self.missing[receipt].ids
        for model, error in self._wrong_with(receipt):
            refused += [(job, _said(error)) for job in awaiting.take(ids, model)]
            if model is None and refused:
                del self._described[receipt]  # there is nothing to describe
        del self.missing[receipt]
        return awaiting.take(ids), refused

    def _wrong_with(self, receipt: Reference) -> Iterator[tuple[ModelRef | None, Exception]]:
        try:
            largest = self.tasks.result(receipt)
        except RunnerError:
            raise
        except Exception as error:  # a source may be its author's own code
            yield None, error
            return
        for use, rows in self._uses:
            try:
                refuse_unknown_ids(use, rows, largest, ())
            except SettingsError as error:
                yield use.model, error

    def wait_until_described(self, notify: Callable[[str], None] = print) -> None:
        """`notify` is told when this takes a moment. Raises RunnerError when what describes the sets cannot be made."""
        try:
            self._wait_for(list(self._described.values()), notify)
        except RunnerError:
            raise
        except Exception as error:  # a model is asked, so its device may fail
            raise RunnerError(f"what describes the calibration sets could not be made: {_said(error)}") from None

    def _wait_for(self, references: Sequence[Reference], notify: Callable[[str], None] | None = None) -> None:
        waiting = list(references)
        while waiting:
            done = self.tasks.done(waiting)
            if notify and not done:
                notify(f"all trials have ended; what describes calibration sets is made ({len(waiting)} groups left)")
                notify = None
            for reference in done:
                waiting.remove(reference)
                self.tasks.result(reference)


def _said(error: Exception) -> str:
    return one_line(str(error)) if isinstance(error, WRONG) else short_line(error)
