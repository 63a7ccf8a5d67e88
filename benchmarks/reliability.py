"""Would other test examples order the sources alike? Split-half reliability of a study's measures, and what it cost.

    python -m benchmarks.reliability RESULTS             # the measures of tasks, by model and method
    python -m benchmarks.reliability RESULTS --tasks     # and of each task
    python -m benchmarks.reliability RESULTS --budget    # and how many examples pay, from the study's own components

The numbers are those of `analysis.reliability` and `analysis.budget`; this prints them for one measure beside the
other, as they are needed to choose the examples of a study (sweep/studies/reference.yaml was chosen so). Seconds are
wall seconds of the trials.
"""

from __future__ import annotations

import argparse

import polars as pl

from analysis.budget import budget_table
from analysis.evidence import Evidence
from analysis.frames import load
from analysis.measures import MEAN
from analysis.reliability import lead_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="results folder or URI of a study")
    parser.add_argument("--tasks", action="store_true", help="also the reliability of each task, median over methods")
    parser.add_argument(
        "--budget", action="store_true", help="also B*, for the measure that can tell and for perplexity"
    )
    arguments = parser.parse_args()
    evidence = Evidence(load(arguments.results))
    frame = evidence.examples.reliability
    show("Measures of tasks, median over models and methods", lead_table(frame))
    show("Reliability of the mean over tasks or texts", by_method(frame.filter(pl.col("task") == MEAN)))
    if arguments.tasks:
        rows = frame.filter(pl.col("task") != MEAN)
        median = rows.group_by("task", "measure").agg(pl.col("reliability").median())
        show("Reliability of a task, median over models and methods", wide(median, "task"))
    if arguments.budget:
        for measure in dict.fromkeys((evidence.lead, "accuracy", "perplexity")):
            show(f"Examples that pay, {measure}", budget_table(evidence.study, measure, examples=evidence.examples))
    show("Seconds of a trial, mean", seconds(evidence.study.trials))


def by_method(rows: pl.DataFrame) -> pl.DataFrame:
    """A row per model and method, a column per measure."""
    named = rows.with_columns((pl.col("model") + ", " + pl.col("method_label")).alias("model and method"))
    return wide(named, "model and method")


def wide(rows: pl.DataFrame, index: str) -> pl.DataFrame:
    found = rows.sort(index, "measure").pivot(on="measure", index=index, values="reliability", sort_columns=True)
    return found.with_columns(pl.selectors.float().round(2))


def seconds(trials: pl.DataFrame) -> pl.DataFrame:
    """Mean wall seconds of a calibrated trial by model and method, and where they went."""
    columns = ["seconds_total", "seconds_compress", "seconds_tasks", "seconds_windows"]
    rows = trials.filter(pl.col("source").is_not_null())
    means = rows.group_by("model", "method_label").agg(pl.len().alias("trials"), pl.col(columns).mean().round(2))
    return means.sort("model", "method_label")


def show(title: str, frame: pl.DataFrame) -> None:
    print(f"\n{title}")
    with pl.Config(tbl_rows=100, tbl_cols=20, tbl_width_chars=200, tbl_hide_dataframe_shape=True):
        print(frame)


if __name__ == "__main__":
    main()
