"""From a metric's values of all examples to one number, by lm-eval's own aggregations, and why there may be none.

A number that overflows, or an aggregation that raises, costs that metric its value and no other metric anything: the
reason stands in the metric's row. An aggregation that lm-eval does not know is wrong whatever the scores, and refused
while the requests are built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from calib.settings import SettingsError, suggestion

Aggregation = Callable[[Sequence[Any]], Any]
PROBES = ((0.0, 1.0, 1.0, 0.25, 0.5), (1.0, 0.0, 0.0, 0.0, 0.125), (0.75, 0.75, 0.0))


def aggregation_of(task: Any, metric: str) -> Aggregation:
    """lm-eval's rule: a metric without an aggregation of its own is averaged."""
    from lm_eval.api.metrics import mean

    return task.aggregation().get(metric, mean)  # type: ignore[no-any-return]


def aggregate(
    rule: Aggregation, items: list[Any], bootstrap_iters: int
) -> tuple[float | None, float | None, str | None]:
    """(value, standard error, why there is no value) of one metric."""
    try:
        found = rule(items)
    except MemoryError:
        raise
    except Exception as error:  # an overflow, or the task author's own code
        return None, None, f"its aggregation fails: {told(error)}"
    value = finite(found)
    if value is None:
        number = as_number(found)
        return None, None, f"its aggregation gives {f'{found!r:.60}, no number' if number is None else number}"
    return value, _standard_error(rule, items, bootstrap_iters), None


def _standard_error(rule: Aggregation, items: list[Any], bootstrap_iters: int) -> float | None:
    from lm_eval.api import metrics

    closed_form = rule in (metrics.mean, metrics.acc_all)
    if len(items) < 2 or not (closed_form or bootstrap_iters):
        return None
    error = metrics.stderr_for_metric(metric=rule, bootstrap_iters=bootstrap_iters or 1)
    if error is None:
        return None
    try:
        return finite(error(items) if closed_form else _resampled(rule, items, bootstrap_iters))
    except (ArithmeticError, ValueError, TypeError, LookupError):  # of a resample, say; the value stands
        return None


def _resampled(rule: Aggregation, items: list[Any], iterations: int) -> float:
    """lm-eval's bootstrapped standard error, from its own draws, in this thread.

    lm-eval forks a pool of processes for it, of a worker that holds a GPU and records beside the next trial: a copy of
    a process with several threads may wait for ever for a lock that one of the others held.
    """
    from lm_eval.api import metrics

    chunk = min(1000, iterations)
    draw = metrics._bootstrap_internal(rule, chunk)
    return float(
        metrics.sample_stddev([value for number in range(iterations // chunk) for value in draw((number, items))])
    )


def is_mean(rule: Aggregation) -> bool:
    """Whether an aggregation averages, whoever wrote it: told by what it makes of a few numbers."""
    from lm_eval.api.metrics import mean, nanmean

    if rule in (mean, nanmean):
        return True
    try:
        found = [as_number(rule(list(probe))) for probe in PROBES]
    except Exception:  # the task author's own code, which may want anything but numbers
        return False
    means = [sum(probe) / len(probe) for probe in PROBES]
    return all(value is not None and math.isclose(value, wanted) for value, wanted in zip(found, means, strict=True))


def check_aggregations(name: str, task: Any, path: str) -> None:
    """Raise SettingsError for a metric of the task that lm-eval cannot aggregate, whatever the scores."""
    from lm_eval.api.registry import aggregation_registry

    written = {entry["metric"]: entry for entry in task.config.metric_list or () if isinstance(entry, Mapping)}
    where = f"{path}.tasks: task '{name}', metric"
    for metric, rule in task.aggregation().items():
        if not callable(rule):
            asked = written.get(metric, {}).get("aggregation")
            close = suggestion(str(asked), aggregation_registry)
            raise SettingsError(f"{where} '{metric}': unknown aggregation {asked!r}{close}; or give a `!function`")


def told(error: BaseException) -> str:
    """Type and message of an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def as_number(value: Any) -> float | None:
    """The value as a float, NaN and infinity included; None for what is no single number."""
    if isinstance(value, (str, bytes)) or (isinstance(value, np.ndarray) and value.ndim):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, ArithmeticError):
        return None


def finite(value: Any) -> float | None:
    """The value as a finite float, else None."""
    number = as_number(value)
    return number if number is not None and math.isfinite(number) else None
