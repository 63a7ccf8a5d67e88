"""Do cheap metrics predict the expensive one?

Perplexity, divergence and layer error cost minutes where a suite of tasks costs an hour. Their rank correlation with
accuracy is high over everything a study holds, because a method that ruins a model ruins all metrics; the question of a
person who chooses calibration data is another one: among sources, or among draws of one source, does the cheap metric
find the better one? So each correlation is given three times: over all trials, between the means of sources (method
effects taken out), and within sources. Intervals resample calibration sets, because trials that share a set are not
independent, and so are about these sources; those between sources resample sources.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from analysis.estimates.correlations import correlate
from analysis.frames import Study
from analysis.measures import MEASURES
from analysis.tables import relation_table

CHEAP = ("perplexity_increase", "perplexity", "js_divergence", "kl_divergence", "layer_error")
SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "metric": pl.String,
    "level": pl.String,
    "n": pl.Int64,
    **dict.fromkeys(
        ["spearman", "spearman_low", "spearman_high", "kendall", "kendall_low", "kendall_high"], pl.Float64
    ),
}


def correlation_table(study: Study, seed: int = 0) -> pl.DataFrame:
    """Spearman's and Kendall's correlation with mean accuracy per (model, metric, level), signed: 1 is perfect.

    The sign is turned so that +1 means the metric orders as accuracy does. `n` counts trials, or (method, source) cells
    at the level `between sources`. Levels with fewer than four points are left out.
    """
    relation = relation_table(study)
    metrics = cheap_metrics(relation)
    if "accuracy" not in relation.columns or not metrics:
        return pl.DataFrame(schema=SCHEMA)
    found: list[dict[str, object]] = []
    rng = np.random.default_rng(seed)
    for (model, parameters), part in relation.group_by("model", "parameters", maintain_order=True):
        for metric in metrics:
            rows = part.drop_nulls([metric, "accuracy"]).rename({metric: "x", "accuracy": "y"})
            sign = 1.0 if MEASURES[metric].higher_is_better else -1.0
            for level, points in levels_of(rows).items():
                if points.height < 4 or points["x"].n_unique() < 2 or points["y"].n_unique() < 2:
                    continue
                values = correlate(
                    sign * points["x"].to_numpy(), points["y"].to_numpy(), points["cluster"].to_numpy(), rng
                )
                context = {"model": model, "parameters": parameters, "metric": metric, "level": level}
                found.append({**context, "n": points.height, **values})
    return pl.DataFrame(found, SCHEMA).sort("parameters", "model", "metric", "level")


def cheap_metrics(relation: pl.DataFrame) -> list[str]:
    """The cheap metrics of `relation_table`; perplexity itself only where it cannot be relative to a dense model."""
    present = [metric for metric in CHEAP if metric in relation.columns]
    return [metric for metric in present if metric != "perplexity" or "perplexity_increase" not in present]


def levels_of(rows: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """level -> (x, y, cluster), the clusters to be resampled."""
    cluster = pl.format("{} {}", pl.col("source").fill_null("none"), pl.col("set").fill_null(0)).alias("cluster")
    calibrated = rows.filter(pl.col("source").is_not_null())
    x, y = pl.col("x"), pl.col("y")
    cell = ["method_label", "source"]
    within = calibrated.filter(pl.len().over(cell) > 1).with_columns(x - x.mean().over(cell), y - y.mean().over(cell))
    means = calibrated.group_by(*cell, maintain_order=True).agg(x.mean(), y.mean())
    between = means.with_columns(x - x.mean().over("method_label"), y - y.mean().over("method_label"))
    return {
        "all trials": rows.select("x", "y", cluster),
        "between sources": between.select("x", "y", pl.col("source").alias("cluster")),
        "within sources": within.select("x", "y", cluster),
    }
