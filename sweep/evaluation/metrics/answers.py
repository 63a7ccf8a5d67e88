"""What answers are worth beside right or wrong, as rows of the metrics table, each also against the dense model.

`loglikelihood` of the right answer and `margin` over the best wrong one (nats), `probability` of the right answer,
`brier` and `ece` (shares; `sweep/evaluation/metrics/choices.py`) are means over the examples of a task, of the kind
`answers`. `*_change` is the mean of their differences from the dense model on the same examples, with its standard
error. The hard case is a metric of the task's own that has one of these names: it keeps the name, and ours is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from sweep.evaluation.metrics.choices import calibration_error
from sweep.evaluation.metrics.outcomes import Number, Outcome, TaskMetrics, metric_row

Worth = Callable[[Outcome], float | None]
WORTH: dict[str, Worth] = {
    "loglikelihood": lambda outcome: outcome.loglikelihood,
    "margin": lambda outcome: outcome.margin,
    "probability": lambda outcome: outcome.forecast.probability if outcome.forecast else None,
    "brier": lambda outcome: outcome.forecast.brier if outcome.forecast else None,
}


def answer_rows(found: TaskMetrics, dense: TaskMetrics, taken: Collection[str] = ()) -> list[dict[str, Any]]:
    """The rows of one task; `taken` are the names of its other metrics. Measures that it does not have give no row."""
    numbers: dict[str, Number] = {}
    reason, compared = unknown(found, found), unknown(found, dense)
    for name, worth in WORTH.items():
        pairs = _pairs(found, dense, worth)
        if any(now is not None or before is not None for now, before in pairs):
            mine = np.asarray([now for now, _ in pairs if now is not None], np.float64)
            changes = [now - before for now, before in pairs if now is not None and before is not None]
            numbers[name] = mean_of(mine, reason)
            numbers[f"{name}_change"] = mean_of(np.asarray(changes, np.float64), compared)
    if any(outcome.forecast for outcome in (*found.outcomes, *dense.outcomes)):
        numbers["ece"] = now = _calibration_error(found, reason)
        before = _calibration_error(dense, unknown(dense, dense))
        change = now.value - before.value if now.value is not None and before.value is not None else None
        why = None if change is not None else compared or now.reason or before.reason
        numbers["ece_change"] = Number(change, None, now.n, why)
    return [metric_row("answers", found.name, name, number) for name, number in numbers.items() if name not in taken]


def _pairs(found: TaskMetrics, dense: TaskMetrics, worth: Worth) -> list[tuple[float | None, float | None]]:
    return [(worth(now), worth(before)) for now, before in zip(found.outcomes, dense.outcomes, strict=True)]


def _calibration_error(result: TaskMetrics, reason: str | None) -> Number:
    forecasts = [outcome.forecast for outcome in result.outcomes if outcome.forecast]
    if reason is None and not forecasts:
        reason = "no example has a choice with a finite score"
    if reason is not None:
        return Number(None, None, len(forecasts), reason)
    confidence = np.array([forecast.confidence for forecast in forecasts])
    return Number(calibration_error(confidence, np.array([f.hit for f in forecasts])), None, len(forecasts))


def both(found: Sequence[Outcome], dense: Sequence[Outcome], name: str) -> np.ndarray:
    """What both models have of each example, float64 [2, examples]: now and before."""
    pairs = [
        (getattr(now, name), getattr(before, name))
        for now, before in zip(found, dense, strict=True)
        if getattr(now, name) is not None and getattr(before, name) is not None
    ]
    return np.asarray(pairs, np.float64).reshape(-1, 2).T


def unknown(found: TaskMetrics, dense: TaskMetrics, *, accuracy: bool = False) -> str | None:
    """Why a comparison with the dense model cannot be made; None when it can."""
    for which, result in (("", found), ("the dense model: ", dense)):
        reason = result.unscored
        if accuracy and result.accuracy is not None:
            reason = reason or result.reasons.get(result.accuracy)
        if reason is not None:
            return which + reason
    return None


def mean_of(values: np.ndarray, reason: str | None) -> Number:
    if reason is None and not len(values):
        reason = "no example has this in both models"
    if reason is not None:
        return Number(None, None, len(values), reason)
    stderr = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return Number(float(values.mean()), stderr, len(values))
