"""Finished studies as one small file for the replay: `python -m benchmarks.adviser.extract RESULTS... --output FILE`.

One row per (model, method, source, set, nsamples, target, measure): the loss (lower is better) and the seconds of the
trial. Measures: `log_perplexity` and `js` of each held-out text, `task_loss` (minus the mean log-likelihood of the
right answers, nats) of each task, and `distinct_tokens` of a set, which no trial needs. The targets `texts` and `tasks`
are means over the held-out texts and the tasks. Source and set are null for the dense model and data-free methods.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from sweep.results import Results

DATA = Path(__file__).parent / "data"
KEYS = ["model", "method", "source", "set", "nsamples"]
TEXTS, SET = "texts", "set"


def extract(folder: str) -> pl.DataFrame:
    """The rows of one results folder; failed trials have one row whose value is null."""
    results = Results(folder)
    trials = results.read("trials").select("trial_id", "status", *KEYS, pl.col("seconds_total").alias("seconds"))
    metrics = results.read("metrics").select("trial_id", "kind", "task", "metric", "value")
    kept = pl.concat(
        [
            metrics.filter(pl.col("metric") == "perplexity", pl.col("kind") == "perplexity").select(
                "trial_id", target="task", measure=pl.lit("log_perplexity"), value=pl.col("value").log()
            ),
            metrics.filter(pl.col("metric") == "js_divergence").select(
                "trial_id", target="task", measure=pl.lit("js"), value="value"
            ),
            metrics.filter(pl.col("metric") == "loglikelihood", pl.col("kind") == "answers").select(
                "trial_id", target="task", measure=pl.lit("task_loss"), value=-pl.col("value")
            ),
        ]
    )
    means = kept.group_by("trial_id", "measure").agg(pl.col("value").mean())
    names = pl.when(pl.col("measure") == "task_loss").then(pl.lit("tasks")).otherwise(pl.lit(TEXTS))
    kept = pl.concat([kept, means.select("trial_id", target=names, measure="measure", value="value")])
    failed = trials.filter(pl.col("status") != "ok").select(
        "trial_id", target=pl.lit(None, pl.String), measure=pl.lit(None, pl.String), value=pl.lit(None, pl.Float64)
    )
    rows = trials.join(pl.concat([kept, failed]), on="trial_id").drop("trial_id", "status")
    return pl.concat([rows, _distinct(results)], how="diagonal")


def _distinct(results: Results) -> pl.DataFrame:
    """Distinct tokens of each calibration set."""
    sets = results.read("calibration").select("calibration_id", "tokens").explode("tokens")
    counts = sets.group_by("calibration_id").agg(pl.col("tokens").n_unique().cast(pl.Float64).alias("value"))
    trials = results.read("trials").drop_nulls("calibration_id").unique("calibration_id")
    return (
        trials.select("calibration_id", "model", "source", "set", "nsamples")
        .join(counts, on="calibration_id")
        .drop("calibration_id")
        .with_columns(target=pl.lit(SET), measure=pl.lit("distinct_tokens"))
    )


def main(
    results: Annotated[list[str], typer.Argument(metavar="RESULTS...", help="results folders")],
    output: Annotated[Path, typer.Option(help="Parquet file to write")] = DATA / "studies.parquet",
) -> None:
    """Write the file of the replay."""
    frame = pl.concat([extract(folder) for folder in results], how="diagonal")
    order = [*KEYS, "target", "measure"]
    frame = frame.select(*order, pl.col("value", "seconds").cast(pl.Float32)).sort(order)
    output.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(output, compression="zstd", compression_level=19)
    typer.echo(f"{output}: {len(frame):,} rows, {output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    typer.run(main)
