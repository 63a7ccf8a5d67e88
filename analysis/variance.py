"""How much of a spread is the source, how much the luck of the draw, how much the test questions, how much a repeat?

The estimators stand in `analysis.estimates.components`, rows and notes in `analysis.estimates.component_rows`.
"""

from __future__ import annotations

import polars as pl

from analysis.estimates.components import SOURCE_EXAMPLE
from analysis.estimates.examples import ExampleTables, read_examples
from analysis.estimates.outcomes import COLUMN_OF
from analysis.frames import Study
from analysis.measures import MEAN, build_values
from calib.settings import SettingsError


def component_table(study: Study, measure: str = "accuracy", *, examples: ExampleTables | None = None) -> pl.DataFrame:
    """Variance components per (model, method, task) and for the mean over tasks, with 95 % intervals of the SD.

    `sd` is what the component adds to the score's standard deviation: points for accuracy, nats per token for
    perplexity (its logarithm) and divergence. `share` is of the sum of the components. `examples` is what
    `read_examples` gave, where it is there already; otherwise samples/ is read. Raises SettingsError for a measure of
    which samples/ hold no single examples.
    """
    if measure not in COLUMN_OF:
        raise SettingsError(f"measure: samples/ hold no examples of '{measure}'; those of: {', '.join(COLUMN_OF)}")
    return (examples or read_examples(study)).components[COLUMN_OF[measure]]


def example_noise(
    study: Study, measure: str, task: str = MEAN, *, examples: ExampleTables | None = None
) -> dict[tuple[str, str], float]:
    """(model, method) -> variance that the choice of test examples gives to the value of one source, unit².

    What is said of a task or a text, and not of these questions or windows, holds it once per source. Perplexities are
    exponentials, so that a variance of their logarithm counts as much as the value is large. Empty where samples/ do
    not hold the measure.
    """
    of_logarithm = measure in ("perplexity", "perplexity_increase")
    source = "perplexity" if of_logarithm else measure
    if source not in COLUMN_OF:
        return {}
    table = component_table(study, source, examples=examples).filter(
        (pl.col("task") == task) & (pl.col("component") == SOURCE_EXAMPLE) & pl.col("variance").is_not_null()
    )
    values = study.calibrated.filter(pl.col("measure") == measure, pl.col("task") == task).drop_nulls("value")
    means = {
        (m, label): v
        for m, label, v in values.group_by("model", "method_label").agg(pl.col("value").mean()).iter_rows()
    }
    found = {}
    for row in table.iter_rows(named=True):
        key = (row["model"], row["method_label"])
        if key in means:
            scale = 1.0
            if of_logarithm:
                scale = means[key] if measure == "perplexity" else 100 + means[key]
            found[key] = max(row["variance"], 0.0) * scale**2
    return found


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
