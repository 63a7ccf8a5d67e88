"""Which metric of a task is its accuracy, and what an example is worth under it.

One rule for every task, and the only place where it is decided. The accuracy is the first metric of `ACCURACY_METRICS`
(`schemas.py`) that the task has, under the first filter that gives it, provided that lm-eval averages one number
per example and more is better. Then the mean of what `samples/` say of the examples is the task's accuracy, whatever
the repeats and filters behind a number, and tables, components, flips and comparisons are about the same thing. The
hard case is a number that is neither right nor wrong, such as the probability mass of TruthfulQA's right answers: it
stays a number, and nothing that needs right and wrong answers is said of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sweep.evaluation.metrics.aggregation import aggregation_of, as_number, is_mean
from sweep.results import ACCURACY_METRICS

Key = tuple[str, str]  # (metric, filter), as lm-eval names its results


def metric_name(key: Key) -> str:
    """A metric keeps its plain name under lm-eval's default filter; other filters are named behind a comma."""
    metric, filter_name = key
    return metric if filter_name == "none" else f"{metric},{filter_name}"


def accuracy_of(task: Any, values: Mapping[Key, Collection[Any]]) -> Key | None:
    """The accuracy among the metrics of an lm-eval task; None when it has none.

    `values` holds what lm-eval aggregates, one value per example, in the order of the task's filters.
    """
    better = task.higher_is_better()
    for wanted in ACCURACY_METRICS:
        for key, found in values.items():
            numbers = all(as_number(value) is not None for value in found)
            if key[0] == wanted and numbers and better.get(wanted, True) and is_mean(aggregation_of(task, wanted)):
                return key
    return None


def right_or_wrong(correct: float | None) -> bool | None:
    """True for exactly 1, False for exactly 0, None for everything between and beyond."""
    return correct == 1 if correct in (0, 1) else None
