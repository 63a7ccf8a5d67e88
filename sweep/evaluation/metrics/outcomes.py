"""What a task's evaluation gives: numbers, each with a reason where it has none, and the outcome of every example.

Words of this room: an *outcome* is what one example gave, a *number* what all of them gave together; *unscored*
examples have no finite score; an error is *told* on one line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sweep.evaluation.metrics.accuracy import Key
from sweep.evaluation.metrics.aggregation import told


@dataclass(frozen=True)
class Outcome:
    """One example of one task. None where the task has no such thing, or the model no finite number."""

    doc_id: int
    correct: float | None  # what lm-eval averages for the task's accuracy: 1, 0 or a share between
    correct_norm: float | None  # the same of acc_norm
    margin: float | None
    loglikelihood: float | None


class Number(NamedTuple):
    """A metric: its value, or why it has none."""

    value: float | None
    stderr: float | None
    n: int
    reason: str | None = None


def metric_row(kind: str, task: str, metric: str, number: Number) -> dict[str, Any]:
    """A row of the metrics table, without its trial."""
    return {"kind": kind, "task": task, "metric": metric, **number._asdict()}


@dataclass(frozen=True)
class TaskMetrics:
    """A task's numbers by (metric, filter), and the outcome of every example.

    values: None where a metric cannot be computed; `reasons` says why, and costs no other metric its value.
    accuracy: the metric that `correct` of the outcomes belongs to.
    unscored: why examples have no scores at all (a model whose logits are NaN); None when all have.
    """

    name: str
    values: dict[Key, float | None]
    stderrs: dict[Key, float | None]
    counts: dict[Key, int]
    reasons: dict[Key, str]
    outcomes: list[Outcome]
    accuracy: Key | None = None
    unscored: str | None = None

    def numbers(self) -> dict[Key, Number]:
        return {
            key: Number(value, self.stderrs[key], self.counts[key], self.reasons.get(key))
            for key, value in self.values.items()
        }


@dataclass(frozen=True)
class Examples:
    """What lm-eval makes of the examples of a task, by the number of the example.

    asked:    how many examples there are.
    unscored: examples of which some answer has no finite score, and so nothing can be said.
    values:   (metric, filter) -> what is aggregated, in the order of filters and examples.
    failures: filter -> what the task's own code raised.
    """

    asked: int
    unscored: frozenset[int]
    values: dict[Key, dict[int, Any]] = field(default_factory=dict)
    failures: dict[str, dict[int, Exception]] = field(default_factory=dict)

    def unscored_reason(self) -> str | None:
        if not self.unscored:
            return None
        return (
            f"the model's scores are NaN or infinite in {len(self.unscored)} of {self.asked} examples "
            f"(first: example {min(self.unscored)})"
        )

    def failure_reason(self, filter_name: str) -> str | None:
        failures = self.failures.get(filter_name)
        if not failures:
            return None
        first, error = next(iter(failures.items()))
        return f"example {first}: {told(error)} ({len(failures)} of {self.asked} examples)"
