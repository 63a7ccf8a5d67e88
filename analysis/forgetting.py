"""What compressed models forget: which answers flip, how far their confidence is off, how they take foreign bytes.

Accuracy is a mean that hides who pays. Three looks at what it leaves out, each against the dense model: flips by how
sure that model was (`forgetting_table`), the calibration of the probabilities (`confidence_table`), and the bits per
byte of text that no source looks like (`byte_table`).
"""

from __future__ import annotations

import polars as pl

from analysis.estimates.examples import ExampleTables, read_examples
from analysis.frames import Study
from analysis.measures import MEAN

CONFIDENCE = ("ece", "brier", "probability")


def forgetting_table(study: Study, *, examples: ExampleTables | None = None) -> pl.DataFrame:
    """Flipped answers by how sure the dense model was, in % of the examples of each third, mean over trials.

    `dense_margin`: the third of each task's examples by the size of the dense model's margin, `close` to `clear`;
    `margin_median`: its median there, nats. `lost`: right before, wrong now; `gained`: wrong before, right now.
    `share_of_flips`: % of the method's flips that lie in this third.
    """
    return (examples or read_examples(study)).forgetting


def confidence_table(study: Study) -> pl.DataFrame:
    """How well the probabilities of the choices say how often they are right, mean over tasks, and over trials.

    `ece`: expected calibration error, % (0 is perfect); `brier`: of 2; `probability`: of the right answer, %; each
    beside the dense model's, with the SD over trials of the first.
    """
    rows = study.main.filter(pl.col("measure").is_in(CONFIDENCE) & (pl.col("task") == MEAN)).drop_nulls("value")
    dense = (
        rows.filter(pl.col("method") == "dense").select("model", "measure", dense="value").unique(["model", "measure"])
    )
    kept = rows.filter(pl.col("method") != "dense").join(dense, on=["model", "measure"])
    keys = ["model", "parameters", "method_label"]
    means = kept.group_by(*keys, "measure").agg(
        pl.len().cast(pl.Int64).alias("trials"),
        pl.col("value").mean(),
        pl.col("value").std().alias("sd"),
        pl.first("dense"),
    )
    table = kept.select(keys).unique()
    for measure in CONFIDENCE:
        part = means.filter(pl.col("measure") == measure)
        columns = [pl.col("value").alias(measure), pl.col("dense").alias(f"{measure}_dense")]
        if measure == CONFIDENCE[0]:
            columns = [pl.col("trials"), columns[0], pl.col("sd").alias("ece_sd"), columns[1]]
        table = table.join(part.select(*keys, *columns), on=keys, how="left")
    return table.sort("parameters", "model", "method_label")


def byte_table(study: Study) -> pl.DataFrame:
    """Bits per byte of texts that tasks score whole, mean over trials, beside the dense model's.

    `excess`: bits above the dense model's, with its SD over trials.
    """
    chosen = pl.col("metric") == "bits_per_byte", pl.col("kind") == "task"
    rows = study.metrics.filter(*chosen).select("trial_id", "task", "value").drop_nulls("value")
    rows = rows.join(study.trials.filter(study.in_main()), on="trial_id")
    dense = rows.filter(pl.col("method") == "dense").select("model", "task", dense="value").unique(["model", "task"])
    kept = rows.filter(pl.col("method") != "dense").join(dense, on=["model", "task"])
    excess = pl.col("value") - pl.col("dense")
    table = kept.group_by("model", "parameters", "method_label", "task").agg(
        pl.len().cast(pl.Int64).alias("trials"),
        pl.first("dense"),
        pl.col("value").mean().alias("bits_per_byte"),
        excess.mean().alias("excess"),
        excess.std().alias("excess_sd"),
    )
    return table.sort("parameters", "model", "task", "method_label")
