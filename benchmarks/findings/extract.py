"""The values behind the findings, as one small file a study: `python -m benchmarks.findings.extract RESULTS --output FILE`.

A results folder keeps every example and every token; the pages need the mean of each task and text in each trial. The
file says of which trials these are, so that a number on a page leads back to a trial id, its calibration set and its
seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from analysis.frames import load

MEASURES = ("perplexity", "js_divergence", "accuracy", "loglikelihood_change", "layer_error")
COLUMNS = ("trial_id", "model", "parameters", "method_label", "source", "set", "nsamples", "seqlen", "measure", "task")


def extract(folder: str) -> pl.DataFrame:
    """One row per trial, measure and task (`mean`: over tasks or texts), float32 values, with what the trial took."""
    study = load(folder)
    rows = study.values.filter(pl.col("measure").is_in(MEASURES)).select(
        *COLUMNS, pl.col("value").cast(pl.Float32), pl.col("n").cast(pl.Int32)
    )
    seconds = study.trials.select(
        "trial_id",
        pl.col("seconds_compress").cast(pl.Float32).alias("compress"),
        (pl.col("seconds_tasks") + pl.col("seconds_windows")).cast(pl.Float32).alias("evaluate"),
    )
    return rows.join(seconds, on="trial_id", maintain_order="left").sort("trial_id", "measure", "task")


def main(results: Annotated[str, typer.Argument()], output: Annotated[Path, typer.Option()]) -> None:
    frame = extract(results)
    frame.write_parquet(output, compression="zstd", compression_level=19)
    print(
        f"{frame.height:,} rows of {frame['trial_id'].n_unique():,} trials, {output.stat().st_size:,} bytes -> {output}"
    )


if __name__ == "__main__":
    typer.run(main)
