"""How much of a spread is the source, how much the luck of the draw, how much the test questions, how much a repeat?

The estimators stand in `analysis.estimates.components`, rows and notes in `analysis.estimates.component_rows`.
"""

from __future__ import annotations

import polars as pl

from analysis.estimates.examples import ExampleTables, read_examples
from analysis.estimates.outcomes import COLUMN_OF
from analysis.frames import Study
from analysis.measures import MEAN, build_values


def component_table(study: Study, measure: str = "accuracy", *, examples: ExampleTables | None = None) -> pl.DataFrame:
    """Variance components per (model, method, task) and for the mean over tasks, with 95 % intervals of the SD.

    `sd` is what the component adds to the score's standard deviation: points for accuracy, nats per token for
    perplexity (its logarithm) and divergence. `share` is of the sum of the components. `examples` is what
    `read_examples` gave, where it is there already; otherwise samples/ is read.
    """
    return (examples or read_examples(study)).components[COLUMN_OF[measure]]


def repeat_table(study: Study) -> pl.DataFrame:
    """Repeat noise: SD over trials that share every factor, per (model, method, measure), mean over tasks.

    Empty when no cell was run twice. Zero means that a trial run again gave the same numbers.
    """
    schema = {"model": pl.String, "method_label": pl.String, "measure": pl.String, "cells": pl.UInt32, "sd": pl.Float64}
    if study.repeats.is_empty():
        return pl.DataFrame(schema=schema)
    metrics = study.results.scan("metrics").filter(pl.col("trial_id").is_in(study.repeats["trial_id"].to_list()))
    dense = study.trials.filter(pl.col("method") == "dense")
    trials = pl.concat([study.repeats, dense]).unique("trial_id", maintain_order=True)
    rows = pl.concat([metrics.collect(), study.metrics.join(dense.select("trial_id"), on="trial_id", how="semi")])
    values, _ = build_values(trials, rows.unique(["trial_id", "task", "metric"], maintain_order=True))
    values = values.filter((pl.col("task") == MEAN) & pl.col("trial_id").is_in(study.repeats["trial_id"].to_list()))
    cells = values.group_by("model", "method_label", "measure", "source", "set", "condition").agg(pl.col("value").var())
    pooled = cells.group_by("model", "method_label", "measure").agg(
        pl.len().alias("cells"), pl.col("value").mean().sqrt().alias("sd")
    )
    return pooled.sort("model", "method_label", "measure")
