"""A worker: holds one dense model, runs trials of it one after the other, and records them itself (`record.py`).

A trial that fails leaves a row with its error, after which the dense model is given back and the next trial starts.
The hard cases are a failure that leaves the GPU unusable (the outcome says so, and the worker is replaced) and a model
that cannot be held, which must not be loaded again for each of its trials.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from calib.build import CalibrationSet
from methods.lazy import torch
from sweep.evaluation.first_blocks import make_judge
from sweep.evaluation.suite import EvaluationData, Judge
from sweep.evaluation.warmup import warm_up
from sweep.models import ModelRef, at_commit, hub_commit
from sweep.plan import EvaluationKey, Trial, evaluation_key
from sweep.results import Results, TrialRows
from sweep.runs.connection import LOGS
from sweep.runs.errors import error_line, may_pass
from sweep.runs.machine import device_name, device_works, free_memory, peak_memory, quiet_torch, reset_peak_memory
from sweep.runs.outcome import Outcome
from sweep.runs.record import Beside, Left, Recorder, record
from sweep.runs.schedule import held_by
from sweep.runs.watch import Watch, WatchedClock, WorkLog
from sweep.storage.patience import WRITE_PATIENCE
from sweep.trial import Clock, failed_rows, run_trial
from sweep.weights.dense import DenseModel
from sweep.weights.streaming import StreamedModel, load_dense

TRIES = 3  # of holding a model whose failure may pass: memory of a GPU that others share, a network or a disk


def log_path(results: Results, worker: str) -> Path | None:
    """Where a worker keeps its log: in a local results folder, else among Ray's logs of its machine, if it has any."""
    name = f"{worker.replace(':', '-')}.jsonl"
    if results.is_local:
        return Path(results.path) / "logs" / name
    return LOGS / f"sweep-{name}" if LOGS.is_dir() else None


class NotHeld(RuntimeError):
    """The model of this trial could not be held for an earlier one. The message is that trial's error."""


@dataclass(frozen=True)
class _Held:
    """A dense model, and the evaluators that were made from it: trials of several evaluations may take turns."""

    model: ModelRef
    commit: str | None
    dense: DenseModel | StreamedModel
    evaluators: dict[EvaluationKey, Judge]


@dataclass(frozen=True)
class _Refusal:
    """Why a model could not be held. Text, since an exception keeps what its frames hold: gigabytes of weights."""

    error: str
    tries_left: int


class Worker:
    """Runs trials in this process. `results` is the folder or URI of the results."""

    def __init__(
        self,
        results: str,
        provenance: Mapping[str, Any],
        device: str | None = None,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        """`limits` are the seconds of each phase after which this process ends itself; None: it never does."""
        self.results = Results(results, WRITE_PATIENCE)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.log = WorkLog(log_path(self.results, self.name))
        self.watch = Watch(limits, self._hung) if limits else None
        self.recorder = Recorder(limits)
        self._now: tuple[Trial, Mapping[str, Any]] | None = None  # the trial that runs, and columns of its row
        self.provenance = dict(provenance)
        self.device = quiet_torch(device)
        self._held: _Held | None = None
        self._warm: tuple[ModelRef, DenseModel | StreamedModel] | None = None  # loaded, and not used yet
        self._refused: dict[object, _Refusal] = {}  # models that could not be held

    def write_to(self, results: str) -> None:
        """Write the rows of the trials that follow into this folder or URI."""
        if results != self.results.root:
            self.results = Results(results, WRITE_PATIENCE)
            self.log = WorkLog(log_path(self.results, self.name))

    def run(
        self,
        trial: Trial,
        calibration: CalibrationSet | None,
        requests: Callable[[], EvaluationData],
        attempts: int = 1,
    ) -> Outcome:
        """Run the trial and commit its row, whatever happens. `requests` is called when the model changes."""
        return self.finish(self.compute(trial, calibration, requests, attempts))

    def compute(
        self,
        trial: Trial,
        calibration: CalibrationSet | None,
        requests: Callable[[], EvaluationData],
        attempts: int = 1,
    ) -> Left:
        """The part of a trial that needs the device; what is left is to record it, of failed ones as well."""
        started = datetime.now(timezone.utc)
        clock = WatchedClock(trial.id, str(trial), self.log, self._memory)
        self._now = trial, {**self.provenance, "attempts": attempts, "started": started, "worker": self.name}
        if self.watch:
            self.watch.clock = clock
        self.log.say("trial", trial=trial.id, name=str(trial), attempt=attempts, memory=self._memory())
        self._mark(trial, attempts)
        reset_peak_memory(self.device)
        failure: TrialRows | None = None
        try:
            held = self._hold(trial, requests, clock)
            rows = run_trial(trial, held.dense, held.evaluators[evaluation_key(trial)], calibration, clock).rows
        except Exception as error:
            text = str(error) if isinstance(error, NotHeld) else error_line(error, clock.part)
            failure = failed_rows(trial, clock.phase or "load", text)
            rows = partial(_same, failure)
            self.log.say("failed", trial=trial.id, phase=clock.phase, error=text, traceback=traceback.format_exc())
        columns = {
            **self._now[1],
            "device": device_name(self.device),
            "peak_memory": peak_memory(self.device),
            "seconds_restore": clock.seconds.get("restore"),
            "seconds_compress": clock.seconds.get("compress"),
        }
        return Left(trial, rows, columns, clock.seconds, failure is not None, self.results, self.log)

    def finish(self, left: Left) -> Outcome:
        """Record a trial here and now, and see whether a failed one has broken the device."""
        self.recorder.settle()
        clock = WatchedClock(left.trial.id, str(left.trial), self.log, self._memory)
        if self.watch:
            self.watch.clock = clock
        outcome = record(left, clock)
        if outcome.status == "failed":
            free_memory(self.device)
            outcome = replace(outcome, broken=not device_works(self.device))
        self.log.say("done", trial=left.trial.id, name=str(left.trial), status=outcome.status, memory=self._memory())
        return outcome

    def _memory(self) -> int | None:
        """Bytes at the trial's peak until now, on a GPU."""
        return peak_memory(self.device) if self.device == "cuda" else None

    def warm(self, model: ModelRef) -> None:
        """Load a model before there is a trial of it, and what a first evaluation loads.

        What goes wrong is met again, and told, by the first trial. The log says when each of it was, in lines that are
        marked as no trial's.
        """
        if self._held is not None:  # a worker that stayed holds one
            return
        log = Beside(self.log.path)
        clock = WatchedClock("", model.name, log, self._memory)
        if self.watch:
            self.watch.clock = clock
        with suppress(Exception), clock("load", "device"):
            torch.zeros(1, device=self.device)
        with suppress(Exception), clock("load", "model"):
            ref = at_commit(model, hub_commit(model))
            dense = load_dense(ref, self.device)
            self._warm = ref, dense
            log.say("loaded", name=model.name, seconds=dense.seconds)
        with suppress(Exception), clock("load", "first use"):
            self._use_once()

    def _use_once(self) -> None:
        """Have the model that was loaded ahead do what takes longer for the first time; leaves no memory behind."""
        if self._warm is None or self._warm[1].placement != "whole":  # of a streamed model it would read blocks again
            return
        dense = self._warm[1]
        if self.device != "cuda":
            with torch.inference_mode():
                dense.model(torch.zeros((1, 8), dtype=torch.long), use_cache=False)
            return
        try:
            warm_up(dense.model, dense.max_length)
        finally:
            torch.cuda.empty_cache()  # workers may share this GPU

    def _take_warm(self, ref: ModelRef) -> DenseModel | StreamedModel | None:
        """The model that was loaded ahead, if it is this one; another one makes room."""
        found, self._warm = self._warm, None
        if found and found[0] == ref:
            return found[1]
        del found
        free_memory(self.device)
        return None

    def _hung(self, error: str) -> None:
        """Commit the row of the trial that hangs, in the thread that found it, before this process ends."""
        if self._now and self.watch and self.watch.clock:
            trial, columns = self._now
            phase = self.watch.clock.phase or "load"
            self.log.say("hangs", trial=trial.id, phase=phase, error=error)
            self.results.commit(
                {**failed_rows(trial, phase, error).trial, **columns, "device": device_name(self.device)}
            )
            self.recorder.settle()

    def _mark(self, trial: Trial, attempts: int) -> None:
        """Leave a mark of this start; it is there for the count alone, so a full disk must not cost the trial."""
        with suppress(OSError):
            self.results.mark_started(trial.id, attempts)

    def _hold(self, trial: Trial, requests: Callable[[], EvaluationData], clock: Clock) -> _Held:
        """The dense model of this trial and its evaluator, loaded when another one is held.

        Raises NotHeld for a model that failed before, as often as it is worth another try.
        """
        wanted = held_by(trial)
        held = self._held
        if held is not None and held.model == trial.model and evaluation_key(trial) in held.evaluators:
            return held
        self.recorder.settle()  # what is loaded may share code with what is recorded
        refusal = self._refused.get(wanted)
        if refusal and refusal.tries_left == 0:
            raise NotHeld(refusal.error)
        if held is not None and held.model != trial.model:
            held = self._held = None
            free_memory(self.device)
        with clock("load", "requests"):
            data = requests()
        try:
            if held is not None and held.commit == data.model_commit:
                held.dense.restore()
            else:
                if held is not None:
                    held = self._held = None
                    free_memory(self.device)  # a third of a second, so not for nothing
                held = self._load(trial, data, clock)
            with clock("load", "evaluation of the dense model"):
                evaluator = make_judge(data, held.dense.model, held.dense.tokenizer, self.device)
            held.evaluators[evaluation_key(trial)] = evaluator
            self._held = held
        except Exception as error:
            tries = refusal.tries_left if refusal else TRIES if may_pass(error) else 1
            self._refused[wanted] = _Refusal(error_line(error, clock.part), tries - 1)
            raise
        self._refused.pop(wanted, None)
        return held

    def _load(self, trial: Trial, data: EvaluationData, clock: Clock) -> _Held:
        with clock("load", "model"):
            ref = at_commit(trial.model, data.model_commit)
            dense = self._take_warm(ref) or load_dense(ref, self.device)
        return _Held(trial.model, data.model_commit, dense, {})


def _same(rows: TrialRows) -> TrialRows:
    return rows
