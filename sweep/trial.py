"""The whole experiment on one page: give back the dense weights, compress, score, and make rows of the answers.

`run_trial` knows nothing of Ray and nothing of other trials; whoever calls it (`sweep/runs/worker.py`) holds the dense
model and writes the rows. What it returns needs no device any more, so rows are made beside the next trial. A trial
that fails is a result as well, a row with its error and the phase that failed: `Clock` keeps which phase that was.
"""

from __future__ import annotations

import gc
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from calib.build import CalibrationSet
from methods.base import Method, method_name
from methods.blockwise import CompressionReport, compress_model
from methods.lazy import torch
from sweep.evaluation.suite import Judge
from sweep.plan import Trial
from sweep.results import TrialRows
from sweep.weights.dense import DenseModel
from sweep.weights.hashes import weights_hash
from sweep.weights.streaming import StreamedModel

FEWER_WINDOWS = (4, 1)  # in a forward, after the GPU was out of memory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Computed:
    """A trial that needs its device no more: what its rows are made from."""

    row: Mapping[str, Any]  # of `trials/`, as far as known
    layers: list[dict[str, Any]]
    evaluator: Judge
    scored: Any

    def rows(self) -> TrialRows:
        """Metrics and rows, from what the model answered."""
        result, data = self.evaluator.result(self.scored), self.evaluator.data
        found = {name: getattr(result, name) for name in ("scorer", "truncated_requests")}
        found |= {f"seconds_{part}": result.seconds.get(part) for part in ("tasks", "windows")}
        found |= {name: getattr(data, name) for name in ("requests_id", "requests_hash", "model_commit")}
        return TrialRows({**self.row, **found, "status": "ok"}, result.metrics, result.samples, self.layers)


def run_trial(
    trial: Trial,
    dense: DenseModel | StreamedModel,
    evaluator: Judge,
    calibration: CalibrationSet | None,
    clock: Clock,
) -> Computed:
    """Run one trial on the dense model, which is changed in place. Raises whatever fails; `clock.phase` says where."""
    with clock("restore"):
        dense.restore()
    report, first = None, trial.evaluation.first_blocks
    if trial.method is not None:
        tokens = calibration.tokens.copy() if calibration else None  # the shared array is read-only
        with clock("compress"):
            report = compress(dense, trial.method, tokens, calibration.weights if calibration else None, first)
    with clock("evaluate", "hash of the weights"):
        compressed_hash = weights_hash(dense.model) if first is None else None  # a model in part is none to ship
    with clock("evaluate"):
        if trial.method is None and compressed_hash is not None:
            scored = evaluator.score_dense(dense.model, compressed_hash)
        else:
            scored = evaluator.score(dense.model)
    row = {
        **describe(trial),
        **_calibration_columns(calibration),
        **(_report_columns(report) if first is None else {}),
        "weights_hash": compressed_hash,
        "parameters": dense.parameters,
        "dtype": dense.dtype,
        "placement": dense.placement,
    }
    return Computed(row, [layer.as_row() for layer in report.layers] if report else [], evaluator, scored)


def compress(
    dense: DenseModel | StreamedModel, method: Method, tokens: Any, weights: Any = None, first_blocks: int | None = None
) -> CompressionReport:
    """Compress the dense model in place. When the GPU is out of memory it begins again with the dense weights, hidden
    states in host memory and ever fewer windows a forward; with one window the error is raised."""
    given = {"token_weights": weights, "first_blocks": first_blocks}
    given = {name: value for name, value in given.items() if value is not None}
    tries: list[dict[str, Any]] = [{}, *({"batch_size": size, "offload": True} for size in FEWER_WINDOWS)]
    for fewer in tries:
        try:
            return compress_model(dense.model, method, tokens, **given, **fewer)
        except torch.OutOfMemoryError as error:
            if fewer is tries[-1] or tokens is None:
                raise
            log.warning("out of memory while compressing (%s); it begins again with smaller batches", error)
        # beyond the handler, whose traceback holds what filled the memory
        gc.collect()
        torch.cuda.empty_cache()
        dense.restore()
    raise AssertionError("the last try returns or raises")


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
        **(spec.policies() if spec else {}),
        "calibration_seed": spec.seed if spec else None,
        "calibration_id": trial.calibration_id,
        "evaluation_id": trial.evaluation_id,
        "first_blocks": trial.evaluation.first_blocks,
    }


def _calibration_columns(calibration: CalibrationSet | None) -> dict[str, Any]:
    if calibration is None:
        return {}
    return {
        "nsamples": int(calibration.tokens.shape[0]),
        "calibration_hash": calibration.hash,
        "calibration_documents": calibration.documents,
        "seconds_select": calibration.seconds_select,
    }


def _report_columns(report: CompressionReport | None) -> dict[str, Any]:
    if report is None:
        return {}
    names = ("achieved_sparsity", "average_bits", "layer_error", "fallbacks")
    return {name: getattr(report, name) for name in names}


def failed_rows(trial: Trial, phase: str, error: str) -> TrialRows:
    """The row of a trial that failed, without any other rows."""
    return TrialRows({**describe(trial), "status": "failed", "phase": phase, "error": error})


class Clock:
    """Seconds by phase, and what is running: `with clock("load", "model"): ...` is a part of the phase `load`."""

    def __init__(self) -> None:
        self.phase: str | None = None  # the last that began
        self.part: str | None = None  # of it, while it runs and when it has failed
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str, part: str | None = None) -> Iterator[None]:
        self.phase, self.part = phase, part
        started = time.perf_counter()
        try:
            yield
            self.part = None
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started
