"""How long a plan will take: from trials that are committed already, otherwise a rough count of arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from sweep.plan import Trial
from sweep.runs.progress import duration

CPU_RATE = 1.5e10  # useful operations a second of one core with models of a few million parameters (measured here)
GPU_RATE = 2.5e14  # of one H200 with a 7B model, compression and evaluation together (docs: performance)
GPU_FLOOR = 2.0  # seconds of a trial that no arithmetic explains: kernel launches, writing
REQUEST_TOKENS = 150  # of one example of a task with all its choices, a typical multiple-choice question
EXAMPLES = 2000  # of a task without a limit
COMPRESS_PASSES = 4  # forward passes over the calibration windows that a method's walk costs, statistics included


def estimate(trials: Sequence[Trial], before: pl.DataFrame) -> str:
    """One line: the time for these trials with one worker."""
    measured = _measured(before)
    if measured:
        mean = sum(measured.values()) / len(measured)
        seconds = sum(measured.get((trial.model.name, trial.label), mean) for trial in trials)
        return f"estimate: {duration(seconds)} with one worker, from the trials that are there already"
    if any(trial.model.parameters is None for trial in trials):
        return "estimate: unknown, because the size of a model is known only when it is downloaded"
    work = sum(operations(trial) for trial in trials)
    largest = max(trial.model.parameters or 0 for trial in trials)
    parts = [f"{duration(max(work / GPU_RATE, GPU_FLOOR * len(trials)))} on one H200"]
    if largest < 2e9:
        parts.insert(0, f"{duration(work / CPU_RATE)} on one CPU core")
    return f"estimate: about {' or '.join(parts)} (a rough count of arithmetic, starting up not included)"


def _measured(before: pl.DataFrame) -> dict[tuple[str, str], float]:
    """Mean seconds of a committed trial by (model, label)."""
    timed = before.filter((pl.col("status") == "ok") & pl.col("seconds_total").is_not_null())
    means = timed.group_by("model", "method_label").agg(pl.col("seconds_total").mean())
    return {(model, label): seconds for model, label, seconds in means.iter_rows()}


def operations(trial: Trial) -> float:
    """Floating-point operations: two for each parameter and token of a forward pass."""
    calibration = (trial.spec.nsamples or 0) * trial.spec.seqlen * COMPRESS_PASSES if trial.spec else 0
    evaluation = trial.evaluation
    windows = len(evaluation.heldout) * (evaluation.heldout_windows or 64) * evaluation.heldout_seqlen
    examples = len(evaluation.task_names) * (evaluation.limit or EXAMPLES)
    return 2.0 * (trial.model.parameters or 0) * (calibration + windows + examples * REQUEST_TOKENS)
