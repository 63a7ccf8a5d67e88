"""The whole experiment on one page: give back the dense weights, compress, evaluate, write rows.

`run_trial` knows nothing of Ray and nothing of other trials. A trial that fails is a result as well: a row with its
error and the phase that failed, after which the dense model is given back and the next trial starts. The hard case is
a failure that leaves the GPU unusable; the outcome says so and the worker is replaced.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.base import method_name
from sweep.models import at_commit
from sweep.plan import Trial
from sweep.results import Results, ResultsError, TrialRows
from sweep.runs.schedule import held_by
from sweep.storage.patience import WRITE_PATIENCE
from sweep.weights.hashes import weights_hash

if TYPE_CHECKING:
    from calib.build import CalibrationSet
    from methods.blockwise import CompressionReport
    from sweep.evaluation.suite import EvaluationData, EvaluationResult, Evaluator
    from sweep.weights.dense import DenseModel
    from sweep.weights.streaming import StreamedModel

TRIES = 3  # of holding a model whose failure may pass: memory of a GPU that others share, a network or a disk
PACKAGE = Path(__file__).resolve().parent.parent


def run_trial(
    trial: Trial,
    dense: DenseModel | StreamedModel,
    evaluator: Evaluator,
    calibration: CalibrationSet | None,
    clock: Clock,
) -> TrialRows:
    """Run one trial on the dense model, which is changed in place. Raises whatever fails; `clock.phase` says where."""
    with clock("restore"):
        dense.restore()
    report = None
    if trial.method is not None:
        from methods.blockwise import compress_model

        tokens = calibration.tokens.copy() if calibration else None  # the shared array is read-only
        with clock("compress"):
            report = compress_model(dense.model, trial.method, tokens)
    with clock("evaluate"):
        compressed_hash = weights_hash(dense.model)
        if trial.method is None:
            result = evaluator.evaluate_dense(dense.model, compressed_hash)
        else:
            result = evaluator.evaluate(dense.model)
    row = {
        **describe(trial),
        **_calibration_columns(calibration),
        **_report_columns(report),
        **_result_columns(result),
        **_requests_columns(evaluator.data),
        "status": "ok",
        "weights_hash": compressed_hash,
        "parameters": dense.parameters,
        "dtype": dense.dtype,
        "placement": dense.placement,
    }
    layers = [layer.as_row() for layer in report.layers] if report else []
    return TrialRows(row, result.metrics, result.samples, layers)


def describe(trial: Trial) -> dict[str, Any]:
    """The columns of `trials/` that are known before the trial runs: its factors."""
    method, spec = trial.method, trial.spec
    settings = {key: value for key, value in method.identity().items() if key != "version"} if method else {}
    return {
        "trial_id": trial.id,
        "study": trial.study,
        "seed": trial.seed,
        "model": trial.model.name,
        "model_id": trial.model.fingerprint,
        "parameters": trial.model.parameters,
        "method": method_name(method) if method else "dense",
        "method_label": trial.label,
        "settings": json.dumps(settings, sort_keys=True),
        **(method.nominal() if method else {}),
        "data_free": spec is None,
        "source": spec.source.label if spec else None,
        "set": spec.set if spec else None,
        "nsamples": spec.nsamples if spec else None,
        "planned_nsamples": spec.nsamples if spec else None,
        "seqlen": spec.seqlen if spec else None,
        "sampling": spec.sampling if spec else None,
        "separator": spec.separator if spec else None,
        "add_bos": spec.add_bos if spec else None,
        "calibration_seed": spec.seed if spec else None,
        "calibration_id": trial.calibration_id,
        "evaluation_id": trial.evaluation_id,
    }


def _calibration_columns(calibration: CalibrationSet | None) -> dict[str, Any]:
    if calibration is None:
        return {}
    return {
        "nsamples": int(calibration.tokens.shape[0]),
        "calibration_hash": calibration.hash,
        "calibration_documents": calibration.documents,
    }


def _report_columns(report: CompressionReport | None) -> dict[str, Any]:
    if report is None:
        return {}
    names = ("achieved_sparsity", "average_bits", "layer_error", "fallbacks")
    return {name: getattr(report, name) for name in names}


def _result_columns(result: EvaluationResult) -> dict[str, Any]:
    return {
        "scorer": result.scorer,
        "truncated_requests": result.truncated_requests,
        "seconds_tasks": result.seconds.get("tasks"),
        "seconds_windows": result.seconds.get("windows"),
    }


def _requests_columns(data: EvaluationData) -> dict[str, Any]:
    names = ("requests_id", "requests_hash", "model_commit")
    return {name: getattr(data, name) for name in names}


class Clock:
    """Seconds by phase, and the phase that is running: `with clock("compress"): ...`."""

    def __init__(self) -> None:
        self.phase: str | None = None
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self.phase = phase
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class Outcome:
    """What the driver hears about a finished trial; the rows themselves are in the results folder."""

    trial: Trial
    status: str  # ok | failed
    attempts: int
    seconds: Mapping[str, float] = field(default_factory=dict)  # by phase, with `tasks` and `windows` of the evaluation
    headline: str = ""
    error: str | None = None
    phase: str | None = None
    broken: bool = False  # the worker cannot run another trial


def committed(results: Results, trial: Trial, attempts: int) -> Outcome | None:
    """The outcome of a trial whose row is there although this run has not written it; nothing may take its place.

    A worker of a driver that was killed can still commit the trial that it was running.
    """
    if results.status(trial.id) != "ok":
        return None
    return Outcome(trial, "ok", attempts, headline="already there")


@dataclass(frozen=True)
class _Refusal:
    """Why a model could not be held. Text, since an exception keeps what its frames hold: gigabytes of weights."""

    error: str
    tries_left: int


class NotHeld(RuntimeError):
    """The model of this trial could not be held for an earlier one. The message is that trial's error."""


class Worker:
    """Holds one dense model and runs trials on it, one after the other; writes each trial's rows itself."""

    def __init__(self, results: str, provenance: Mapping[str, Any], device: str | None = None) -> None:
        self.results = Results(results, WRITE_PATIENCE)
        self.provenance = dict(provenance)
        self.device = quiet_torch(device)
        self._held: object = None
        self._refused: dict[object, _Refusal] = {}  # models that could not be held
        self._dense: DenseModel | StreamedModel | None = None
        self._evaluator: Evaluator | None = None

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
            with clock("load"):
                dense, evaluator = self._hold(trial, requests)
            rows = run_trial(trial, dense, evaluator, calibration, clock)
        except Exception as error:
            rows = failed_rows(trial, clock.phase or "load", one_line(error))
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
            return self._write_failed(trial, common, one_line(error), clock)

    def _mark(self, trial: Trial, attempts: int) -> None:
        """Leave a mark of this start; it is there for the count alone, so a full disk must not cost the trial."""
        with suppress(OSError):
            self.results.mark_started(trial.id, attempts)

    def _hold(
        self, trial: Trial, requests: Callable[[], EvaluationData]
    ) -> tuple[DenseModel | StreamedModel, Evaluator]:
        """The dense model of this trial and the evaluator made from it, loaded when another one is held.

        A model that cannot be held is not loaded again for each of its trials: they fail with the same error.
        """
        wanted = held_by(trial)
        if self._held != wanted or self._dense is None or self._evaluator is None:
            refusal = self._refused.get(wanted)
            if refusal and refusal.tries_left == 0:
                raise NotHeld(refusal.error)
            self._held = self._dense = self._evaluator = None
            free_memory(self.device)
            data = requests()
            try:
                self._dense, self._evaluator = self._load(trial, data)
            except Exception as error:
                tries = refusal.tries_left if refusal else TRIES if may_pass(error) else 1
                self._refused[wanted] = _Refusal(one_line(error), tries - 1)
                raise
            self._held = wanted
            self._refused.pop(wanted, None)
        return self._dense, self._evaluator

    def _load(self, trial: Trial, data: EvaluationData) -> tuple[DenseModel | StreamedModel, Evaluator]:
        from sweep.evaluation.suite import Evaluator
        from sweep.weights.streaming import load_dense

        dense = load_dense(at_commit(trial.model, data.model_commit), self.device)
        return dense, Evaluator(data, dense.model, dense.tokenizer, self.device)

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
            row["error"] = f"{error}; nor could this row be written: {one_line(second)}"
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


def failed_rows(trial: Trial, phase: str, error: str) -> TrialRows:
    """The row of a trial that failed, without any other rows."""
    return TrialRows({**describe(trial), "status": "failed", "phase": phase, "error": error})


def one_line(error: BaseException) -> str:
    """Type, message and, for errors that are not ours, the line of our code where it happened."""
    if isinstance(error, NotHeld):
        return str(error)
    text = " ".join(str(error).split())
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(PACKAGE))]
    where = ""
    if frames and not type(error).__module__.startswith(("calib", "methods", "sweep")):
        where = f" ({Path(frames[-1].filename).relative_to(PACKAGE)}:{frames[-1].lineno})"
    return f"{type(error).__name__}: {text}{where}"[:2000]


def may_pass(error: BaseException) -> bool:
    """Whether the same may work later: what others use too (a GPU's memory, the network, a disk) was not to be had."""
    return isinstance(error, OSError | MemoryError) or "out of memory" in str(error).lower()


def headline(rows: TrialRows) -> str:
    """`acc 0.61 · ppl 23.4`: mean `acc` of groups (or accuracy of tasks), geometric mean perplexity."""
    import math

    parts = []
    for kind in ("group", "task"):
        found = [row for row in rows.metrics if row["kind"] == kind and row["metric"] == row.get("accuracy", "acc")]
        values = [row["value"] for row in found if row["value"] is not None]
        if values:
            parts.append(f"acc {sum(values) / len(values):.3f}")
            break
    logs = [row["value"] for row in rows.metrics if row["metric"] == "perplexity" and row["kind"] == "perplexity"]
    logs = [math.log(value) for value in logs if value and value > 0]
    if logs:
        parts.append(f"ppl {math.exp(sum(logs) / len(logs)):.2f}")
    return " · ".join(parts)


# the machine


def quiet_torch(device: str | None = None) -> str:
    """Set up torch for a worker; returns its device, `cuda` or `cpu` (None: a GPU if there is one).

    On a CPU a worker always computes with one thread: sums are split by the number of threads, so a fixed number makes
    one worker and many give the same bits. More cores are used by more workers.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if device != "cpu" and torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise RuntimeError("this worker was given a GPU, but torch sees none: install a CUDA build of torch there")
    torch.set_num_threads(1)
    return "cpu"


def device_name(device: str) -> str:
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def reset_peak_memory(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: str) -> int:
    """Bytes: of this trial on a GPU, of the process so far on a CPU."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory(device: str) -> None:
    gc.collect()
    if device == "cuda" and device_works(device):
        import torch

        torch.cuda.empty_cache()


def device_works(device: str) -> bool:
    """False after an error that makes every later call on the GPU fail (an illegal memory access)."""
    if device != "cuda":
        return True
    import torch

    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
