"""A count of arithmetic, for what a machine can hardly undercut and for how much longer one trial is than another."""

from __future__ import annotations

from sweep.plan import Trial

CPU_RATE = 1.5e10  # useful operations a second of one core with models of a few million parameters (measured here)
GPU_RATE = 2.5e14  # of one H200 with a 7B model, compression and evaluation together (docs: performance)
GPU_FLOOR = 2.0  # seconds of a trial that no arithmetic explains: kernel launches, writing
REQUEST_TOKENS = 150  # of one example of a task with all its choices, a typical multiple-choice question
EXAMPLES = 2000  # of a task without a limit
COMPRESS_PASSES = 4  # forward passes over the calibration windows that a method's walk costs, statistics included


def operations(trial: Trial, parameters: int | None = None) -> float:
    """Floating-point operations: two for each parameter and token of a forward pass.

    `parameters` of the model, where they are known better than when the trial was planned. A hub model that was not
    downloaded yet counts as one parameter: too little for a time, and right for the ratio of two of its trials.
    """
    calibration = (trial.spec.nsamples or 0) * trial.spec.seqlen * COMPRESS_PASSES if trial.spec else 0
    evaluation = trial.evaluation
    windows = len(evaluation.heldout) * (evaluation.heldout_windows or 64) * evaluation.heldout_seqlen
    examples = len(evaluation.task_names) * (evaluation.limit or EXAMPLES)
    return 2.0 * (parameters or trial.model.parameters or 1) * (calibration + windows + examples * REQUEST_TOKENS)
