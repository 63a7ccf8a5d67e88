"""A worker: holds one dense model, runs trials of it one after the other, and writes their rows itself.

A trial that fails leaves a row with its error, after which the dense model is given back and the next trial starts.
The hard cases are a failure that leaves the GPU unusable (the outcome says so, and the worker is replaced) and a model
that cannot be held, which must not be loaded again for each of its trials.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from calib.build import CalibrationSet
from sweep.evaluation.suite import EvaluationData, Evaluator
from sweep.models import ModelRef, at_commit
from sweep.plan import EvaluationKey, Trial, evaluation_key
from sweep.results import Results, ResultsError, TrialRows
from sweep.runs.errors import error_line, may_pass
from sweep.runs.headline import headline
from sweep.runs.machine import device_name, device_works, free_memory, peak_memory, quiet_torch, reset_peak_memory
from sweep.runs.outcome import Outcome, committed
from sweep.runs.schedule import held_by
from sweep.storage.patience import WRITE_PATIENCE
from sweep.trial import Clock, failed_rows, run_trial
from sweep.weights.dense import DenseModel
from sweep.weights.streaming import StreamedModel, load_dense

TRIES = 3  # of holding a model whose failure may pass: memory of a GPU that others share, a network or a disk


class NotHeld(RuntimeError):
    """The model of this trial could not be held for an earlier one. The message is that trial's error."""


@dataclass(frozen=True)
class _Held:
    """A dense model, and the evaluators that were made from it: trials of several evaluations may take turns."""

    model: ModelRef
    commit: str | None
    dense: DenseModel | StreamedModel
    evaluators: dict[EvaluationKey, Evaluator]


@dataclass(frozen=True)
class _Refusal:
    """Why a model could not be held. Text, since an exception keeps what its frames hold: gigabytes of weights."""

    error: str
    tries_left: int


class Worker:
    """Runs trials in this process. `results` is the folder or URI of the results."""

    def __init__(self, results: str, provenance: Mapping[str, Any], device: str | None = None) -> None:
        self.results = Results(results, WRITE_PATIENCE)
        self.provenance = dict(provenance)
        self.device = quiet_torch(device)
        self._held: _Held | None = None
        self._refused: dict[object, _Refusal] = {}  # models that could not be held

    def write_to(self, results: str) -> None:
        """Write the rows of the trials that follow into this folder or URI."""
        if results != self.results.root:
            self.results = Results(results, WRITE_PATIENCE)

    def run(
        self,
        trial: Trial,
        calibration: CalibrationSet | None,
        requests: Callable[[], EvaluationData],
        attempts: int = 1,
    ) -> Outcome:
        """Run the trial and commit its row, whatever happens. `requests` is called when the model changes."""
        started = datetime.now(timezone.utc)
        clock = Clock()
        self._mark(trial, attempts)
        reset_peak_memory(self.device)
        try:
            held = self._hold(trial, requests, clock)
            rows = run_trial(trial, held.dense, held.evaluators[evaluation_key(trial)], calibration, clock)
        except Exception as error:
            text = str(error) if isinstance(error, NotHeld) else error_line(error, clock.part)
            rows = failed_rows(trial, clock.phase or "load", text)
        common = {
            **self.provenance,
            "attempts": attempts,
            "started": started,
            "worker": f"{socket.gethostname()}:{os.getpid()}",
            "device": device_name(self.device),
            "peak_memory": peak_memory(self.device),
            "seconds_restore": clock.seconds.get("restore"),
            "seconds_compress": clock.seconds.get("compress"),
        }
        rows = TrialRows({**rows.trial, **common}, rows.metrics, rows.samples, rows.layers)
        try:
            return self._write(trial, rows, clock)
        except (OSError, ResultsError) as error:
            return self._write_failed(trial, common, error_line(error), clock)

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
                held = self._held = None
                free_memory(self.device)
                held = self._load(trial, data, clock)
            with clock("load", "evaluation of the dense model"):
                evaluator = Evaluator(data, held.dense.model, held.dense.tokenizer, self.device)
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
            dense = load_dense(at_commit(trial.model, data.model_commit), self.device)
        return _Held(trial.model, data.model_commit, dense, {})

    def _write(self, trial: Trial, rows: TrialRows, clock: Clock) -> Outcome:
        if there := committed(self.results, trial, rows.trial["attempts"]):
            return there
        with clock("write"):
            files = self.results.write_details(rows)
        total = sum(clock.seconds.values()) - clock.seconds.get("load", 0.0)
        row = {
            **rows.trial,
            "files": json.dumps(files),
            "seconds_write": clock.seconds["write"],
            "seconds_total": total,
        }
        self.results.commit(row)
        with suppress(OSError):
            self.results.forget_started(trial.id, range(1, rows.trial["attempts"] + 1))
        return self._outcome(trial, row, headline(rows), clock)

    def _write_failed(self, trial: Trial, common: Mapping[str, Any], error: str, clock: Clock) -> Outcome:
        """A trial whose tables cannot be written (a full disk, a broken contract) fails; its row may still fit."""
        row = {**failed_rows(trial, "write", error).trial, **common}
        try:
            self.results.commit(row)
        except OSError as second:
            row["error"] = f"{error}; nor could this row be written: {error_line(second)}"
        return self._outcome(trial, row, "", clock)

    def _outcome(self, trial: Trial, row: Mapping[str, Any], figures: str, clock: Clock) -> Outcome:
        failed = row["status"] == "failed"
        if failed:
            free_memory(self.device)
        parts = {name: row.get(f"seconds_{name}") or 0.0 for name in ("tasks", "windows")}
        return Outcome(
            trial=trial,
            status=row["status"],
            attempts=row["attempts"],
            seconds={**clock.seconds, **parts},
            headline=figures,
            error=row.get("error"),
            phase=row.get("phase"),
            broken=failed and not device_works(self.device),
        )
