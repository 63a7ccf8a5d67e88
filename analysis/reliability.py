"""Which measure can tell the sources apart, and how many examples would another one need?

Every measure of an evaluation comes from the same examples, and they are not equally good for the question: right or
wrong is one bit of an answer, its log-likelihood a number. A measure *can tell* when other examples would order the
sources alike; `analysis.estimates.reliability` says what that means. Which one can is decided here, once, from the
median over models and methods, and everything that leads with a measure of tasks leads with that one.
"""

from __future__ import annotations

import polars as pl

from analysis.estimates.examples import ExampleTables, read_examples
from analysis.frames import Study
from analysis.measures import MEAN, TASK_MEASURES


def reliability_table(study: Study, *, examples: ExampleTables | None = None) -> pl.DataFrame:
    """Split-half reliability of the order of sources per (model, method, measure, task), and for the mean over tasks.

    `half` is Spearman's correlation between the orders of two halves of the examples, mean over 200 cuts, of which
    `half_low` to `half_high` holds 95 %; `reliability` is that of all `examples`, by Spearman-Brown, and
    `examples_needed` how many would give .8, null where halves do not agree at all. It is about the examples: the
    calibration sets are the same in both halves. Perplexity is judged by its logarithm.
    """
    return (examples or read_examples(study)).reliability


def lead_table(reliability: pl.DataFrame) -> pl.DataFrame:
    """Per measure of tasks, the most reliable first: median over models and methods, with n.

    `needed` is the median of `examples_needed`; null where halves do not agree in half of the pairs of model and method
    or more.
    """
    rows = reliability.filter(pl.col("measure").is_in(TASK_MEASURES), pl.col("task") == MEAN).drop_nulls("reliability")
    beyond = pl.col("examples_needed").cast(pl.Float64).fill_null(float("inf")).median()
    found = rows.group_by("measure").agg(
        pl.len().alias("pairs"),
        pl.col("reliability").median(),
        pl.col("reliability").min().alias("lowest"),
        pl.col("reliability").max().alias("highest"),
        pl.col("examples").median().cast(pl.Int64),
        pl.when(beyond.is_finite()).then(beyond).alias("needed"),
    )
    order = pl.col("measure").replace_strict({m: i for i, m in enumerate(TASK_MEASURES)}, return_dtype=pl.Int64)
    return found.sort(pl.col("reliability"), order, descending=[True, False])


def leading(study: Study, reliability: pl.DataFrame) -> str:
    """The measure of tasks that can tell best, against dense where there is a dense trial; accuracy if none can."""
    table = lead_table(reliability)
    name = "accuracy" if table.is_empty() else str(table.item(0, "measure"))
    against = study.calibrated.filter(pl.col("measure") == f"{name}_change").drop_nulls("value")
    return f"{name}_change" if against.height else name
