"""The values behind the findings, as one small file a study: `python -m benchmarks.findings.extract RESULTS --output FILE`.

A results folder keeps every example and every token; the pages need the mean of each task and text in each trial. The
file says of which trials these are, so that a number on a page leads back to a trial id, its calibration set and its
seed. `--descriptors FILE` writes what the sets are like, where the study describes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from analysis.frames import Study, load

MEASURES = ("perplexity", "js_divergence", "accuracy", "loglikelihood_change", "layer_error")
COLUMNS = ("trial_id", "model", "parameters", "method_label", "source", "set", "nsamples", "seqlen", "measure", "task")


def extract(study: Study) -> pl.DataFrame:
    """One row per trial, measure and task (`mean`: over tasks or texts), float32 values, with what the trial took.

    `select`: the rule that chose the set's windows out of a pool, null where they were drawn. Where a part of the tokens
    counts alone, the source says which.
    """
    rows = study.values.filter(pl.col("measure").is_in(MEASURES)).select(
        *COLUMNS, pl.col("value").cast(pl.Float32), pl.col("n").cast(pl.Int32)
    )
    seconds = study.trials.select(
        "trial_id",
        pl.col("seconds_compress").cast(pl.Float32).alias("compress"),
        (pl.col("seconds_tasks") + pl.col("seconds_windows")).cast(pl.Float32).alias("evaluate"),
        "select",
        "part",
    )
    joined = rows.join(seconds, on="trial_id", maintain_order="left").with_columns(part_in_source())
    return joined.drop("part").sort("trial_id", "measure", "task")


def part_in_source() -> pl.Expr:
    """`traces, response alone` where `part` names a part of the tokens."""
    named = pl.concat_str("source", pl.lit(", "), "part", pl.lit(" alone"))
    return pl.when(pl.col("part").is_null()).then("source").otherwise(named).alias("source")


def describe(study: Study) -> pl.DataFrame:
    """One row per set, descriptor and held-out text that it is compared with (empty: none)."""
    sets = study.trials.drop_nulls("source").select("calibration_id", "source", "set", "nsamples", "select").unique()
    rows = study.results.scan("descriptors").collect(engine="in-memory")
    columns = ("source", "set", "nsamples", "select", "descriptor", "target", "model", "value", "seconds")
    return rows.join(sets, on="calibration_id").select(columns).sort("descriptor", "target", "source", "set")


def main(
    results: Annotated[str, typer.Argument()],
    output: Annotated[Path, typer.Option()],
    descriptors: Annotated[Path | None, typer.Option()] = None,
) -> None:
    study = load(results)
    frames = {output: extract(study)}
    if descriptors is not None:
        frames[descriptors] = describe(study)
    for path, frame in frames.items():
        frame.write_parquet(path, compression="zstd", compression_level=19)
        print(f"{frame.height:,} rows, {path.stat().st_size:,} bytes -> {path}")


if __name__ == "__main__":
    typer.run(main)
