"""What the analysis measures, in one tidy frame: accuracy, perplexity, divergence, layer error, each with a direction.

Every number comes from `metrics/` or from the trial's own row. A measure has one value per task (or held-out text) and
one under the task `mean`: the unweighted mean over tasks for accuracy and divergence, the geometric mean for
perplexities. The hard case is a mean over an incomplete set of tasks: it would compare different things, so it is null,
and `build_values` says how many were.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from analysis.checks import Limitation
from sweep.results import ACCURACY_METRICS

MEAN = "mean"
FACTORS = [
    "model",
    "parameters",
    "method",
    "method_label",
    "data_free",
    "source",
    "set",
    "nsamples",
    "seqlen",
    "condition",
]
CONTEXT = ["trial_id", *FACTORS]
LARGEST = 1e50  # beyond it lies the perplexity of a broken model; squares of larger numbers overflow in every table
# Where rows do not record their accuracy: the column of samples/ that holds the examples of a metric, and so which
# metrics can be the accuracy. Such rows do not tell the order of named filters, so none of those can.
OLDER_EXAMPLES = {"acc": "correct", "exact_match": "correct", "em": "correct", "acc_norm": "correct_norm"}


@dataclass(frozen=True)
class Measure:
    """How a measure is named, scaled and read. `unit` follows the number; `decimals` are printed."""

    name: str
    title: str
    unit: str
    decimals: int
    higher_is_better: bool = field(kw_only=True)

    @property
    def better(self) -> str:
        return "higher is better" if self.higher_is_better else "lower is better"


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("accuracy", "Accuracy", "%", 1, higher_is_better=True),
        Measure("perplexity_increase", "Perplexity increase over dense", "%", 1, higher_is_better=False),
        Measure("perplexity", "Perplexity", "", 2, higher_is_better=False),
        Measure("js_divergence", "Jensen-Shannon divergence from dense", "nats", 4, higher_is_better=False),
        Measure("kl_divergence", "KL divergence from dense", "nats", 4, higher_is_better=False),
        Measure("kl_divergence_reverse", "Reverse KL divergence from dense", "nats", 4, higher_is_better=False),
        Measure("top1_agreement", "Top-1 agreement with dense", "%", 1, higher_is_better=True),
        Measure("layer_error", "Mean relative layer error", "", 4, higher_is_better=False),
    )
}
HEADLINE = ("accuracy", "perplexity_increase", "perplexity", "js_divergence")


def build_values(trials: pl.DataFrame, metrics: pl.DataFrame) -> tuple[pl.DataFrame, list[Limitation]]:
    """(values, notes): one row per (trial, measure, task) with the trial's factors; notes say what is missing."""
    joined = metrics.join(trials.select("trial_id", "model", "method"), on="trial_id")
    accuracy, notes = _accuracy(joined)
    perplexity = _pick(joined, "perplexity", ["perplexity"], 1.0)
    increase = _increase(perplexity, joined)
    divergence = _pick(joined, "divergence", ["js_divergence", "kl_divergence", "kl_divergence_reverse"], 1.0)
    agreement = _pick(joined, "divergence", ["top1_agreement"], 100.0)
    parts = [
        _with_mean(part, geometric=geometric)
        for part, geometric in (
            (accuracy, False),
            (perplexity, True),
            (increase, True),
            (divergence, False),
            (agreement, False),
        )
    ]
    parts.append(_layer_error(trials))
    usable = pl.col("value").is_finite() & (pl.col("value").abs() <= LARGEST)  # a ratio or a mean may overflow
    values = pl.concat(parts).with_columns(pl.when(usable).then("value").alias("value"))
    holes = values.filter((pl.col("task") == MEAN) & pl.col("value").is_null())
    if holes.height:
        text = f"{holes.height} means over tasks are empty because a task of the trial has no usable value."
        notes.append(Limitation("incomplete means", text))
    values = trials.select(CONTEXT).join(values, on="trial_id").sort("measure", "task", *FACTORS, "trial_id")
    return values, notes


def _pick(joined: pl.DataFrame, kind: str, metrics: list[str], scale: float) -> pl.DataFrame:
    """Rows of one kind as (trial_id, model, measure, task, value, stderr, n)."""
    return joined.filter((pl.col("kind") == kind) & pl.col("metric").is_in(metrics)).select(
        "trial_id",
        "model",
        pl.col("metric").alias("measure"),
        "task",
        pl.col("value") * scale,
        pl.col("stderr") * scale,
        "n",
    )


def _accuracy(joined: pl.DataFrame) -> tuple[pl.DataFrame, list[Limitation]]:
    """One metric per task, the same in all trials; the tasks that have none are named."""
    notes = []
    chosen = accuracy_metrics(joined)
    left_out = sorted(set(joined.filter(pl.col("kind") == "task")["task"].to_list()) - set(chosen))
    if left_out:
        text = f"{', '.join(left_out)} have no accuracy and are not in the mean."
        notes.append(Limitation("tasks without accuracy", text))
    rows = accuracy_rows(joined, chosen)
    picked = _pick(rows, "task", list(set(chosen.values())), 100.0)
    return picked.with_columns(pl.lit("accuracy").alias("measure")), notes


def accuracy_metrics(metrics: pl.DataFrame) -> dict[str, str]:
    """task -> its accuracy metric: the one that its rows record, which most trials have where they differ.

    Rows of an older version record none; there it is the first of `ACCURACY_METRICS` that samples/ tell of.
    """
    tasks = metrics.filter(pl.col("kind") == "task")
    known = tasks.drop_nulls("accuracy")
    votes = known.filter(pl.col("accuracy") == pl.col("metric")).group_by("task", "metric").len()
    votes = votes.sort("len", "metric", descending=[True, False]).unique("task", keep="first", maintain_order=True)
    recorded = dict(votes.sort("task").select("task", "metric").iter_rows())
    without = set(known.group_by("task").agg((pl.col("accuracy") == "").all()).filter("accuracy")["task"])
    order = {name: rank for rank, name in enumerate(ACCURACY_METRICS) if name in OLDER_EXAMPLES}
    older = tasks.filter(pl.col("metric").is_in(list(order)) & ~pl.col("task").is_in([*without, *recorded]))
    rank = pl.col("metric").replace_strict(order, default=None, return_dtype=pl.Int8)
    first = older.filter(rank == rank.min().over("task")).select("task", "metric").unique("task").sort("task")
    return {**recorded, **dict(first.iter_rows())}


def accuracy_rows(metrics: pl.DataFrame, chosen: dict[str, str]) -> pl.DataFrame:
    """The rows of each task's accuracy."""
    wanted = pl.DataFrame(
        {"task": list(chosen), "metric": list(chosen.values())}, pl.Schema([("task", pl.String), ("metric", pl.String)])
    )
    return metrics.filter(pl.col("kind") == "task").join(
        wanted, on=["task", "metric"], how="semi", maintain_order="left"
    )


def _increase(perplexity: pl.DataFrame, joined: pl.DataFrame) -> pl.DataFrame:
    """Perplexity over the dense model's on the same text, in percent; empty where there is no dense trial."""
    dense_ids = joined.filter(pl.col("method") == "dense").select("trial_id").unique()
    dense = perplexity.join(dense_ids, on="trial_id", how="semi").select("model", "task", dense="value")
    dense = dense.group_by("model", "task").agg(pl.col("dense").first())
    return perplexity.join(dense, on=["model", "task"]).select(
        "trial_id",
        "model",
        pl.lit("perplexity_increase").alias("measure"),
        "task",
        (pl.col("value") / pl.col("dense") - 1) * 100,
        pl.lit(None, pl.Float64).alias("stderr"),
        "n",
    )


def _with_mean(part: pl.DataFrame, *, geometric: bool) -> pl.DataFrame:
    """The rows and, per trial and measure, their mean over the tasks that the model was evaluated on.

    A percentage increase is averaged as a ratio: (geometric mean of 1 + x/100) - 1.
    """
    expected = part.group_by("model", "measure").agg(pl.col("task").n_unique().alias("expected"))
    ratio = pl.when(pl.col("measure") == "perplexity_increase").then(1 + pl.col("value") / 100).otherwise("value")
    back = pl.when(pl.col("measure") == "perplexity_increase").then((pl.col("value").exp() - 1) * 100)
    value = ratio.log() if geometric else pl.col("value")
    count = pl.col("value").count()
    means = part.group_by("trial_id", "model", "measure").agg(
        value.mean().alias("value"),
        # Examples of different tasks are independent, so the variances of their means add up.
        pl.when(pl.lit(geometric)).then(None).otherwise((pl.col("stderr") ** 2).sum().sqrt() / count).alias("stderr"),
        pl.when(pl.col("stderr").null_count() > 0).then(None).otherwise(1).alias("known"),
        pl.col("n").sum(),
        count.alias("tasks"),
    )
    if geometric:
        means = means.with_columns(back.otherwise(pl.col("value").exp()).alias("value"))
    complete = pl.col("tasks") == pl.col("expected")
    means = means.join(expected, on=["model", "measure"]).select(
        "trial_id",
        "measure",
        pl.lit(MEAN).alias("task"),
        pl.when(complete).then("value").otherwise(None).alias("value"),
        pl.when(complete & pl.col("known").is_not_null()).then("stderr").otherwise(None).alias("stderr"),
        pl.col("n").cast(pl.Int64),
    )
    return pl.concat([part.drop("model").select(means.columns), means])


def _layer_error(trials: pl.DataFrame) -> pl.DataFrame:
    return trials.filter(pl.col("layer_error").is_not_null() & (pl.col("method") != "dense")).select(
        "trial_id",
        pl.lit("layer_error").alias("measure"),
        pl.lit(MEAN).alias("task"),
        pl.col("layer_error").alias("value"),
        pl.lit(None, pl.Float64).alias("stderr"),
        pl.lit(None, pl.Int64).alias("n"),
    )
