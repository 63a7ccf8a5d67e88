"""Do cheap metrics predict the expensive one?

Perplexity, divergence and layer error cost minutes where a suite of tasks costs an hour. Their rank correlation with
accuracy is high over everything a study holds, because a method that ruins a model ruins all metrics; the question of a
person who chooses calibration data is another one: among sources, or among draws of one source, does the cheap metric
find the better one? So each correlation is given three times: over all trials, between the means of sources (averaged
over methods), and within sources.

Intervals know that whole sets, or whole sources, go together (`analysis.estimates.correlations`): trials that share
a set are not independent. Over all trials there is none: how far that correlation goes is a matter of which methods the
study chose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.cells import relation_table
from analysis.estimates.correlations import correlation
from analysis.frames import Study
from analysis.measures import MEASURES

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
    "note": pl.String,
}


def correlation_table(study: Study) -> pl.DataFrame:
    """Spearman's and Kendall's correlation with mean accuracy per (model, metric, level), signed: 1 is perfect.

    The sign is turned so that +1 means the metric orders as accuracy does. `n` counts trials, or sources at the level
    `between sources`. Levels with fewer than four points are left out; `note` says why there is no interval.
    """
    relation = relation_table(study)
    metrics = cheap_metrics(relation)
    if "accuracy" not in relation.columns or not metrics:
        return pl.DataFrame(schema=SCHEMA)
    found: list[dict[str, object]] = []
    for (model, parameters), part in relation.group_by("model", "parameters", maintain_order=True):
        for metric in metrics:
            rows = part.drop_nulls([metric, "accuracy"]).rename({metric: "x", "accuracy": "y"})
            sign = 1.0 if MEASURES[metric].higher_is_better else -1.0
            for level in levels_of(rows):
                points = level.points
                if points.height < 4 or points["x"].n_unique() < 2 or points["y"].n_unique() < 2:
                    continue
                context = {"model": model, "parameters": parameters, "metric": metric, "level": level.name}
                found.append({**context, "n": points.height, **correlated(level, sign)})
    return pl.DataFrame(found, SCHEMA).sort("parameters", "model", "metric", "level")


def cheap_metrics(relation: pl.DataFrame) -> list[str]:
    """The cheap metrics of `relation_table`; perplexity itself only where it cannot be relative to a dense model."""
    present = [metric for metric in CHEAP if metric in relation.columns]
    return [metric for metric in present if metric != "perplexity" or "perplexity_increase" not in present]


@dataclass(frozen=True)
class Level:
    """Points (x, y), the clusters that are left out together and the groups whose means are taken out.

    `freedom`: independent clusters after that; None where no interval is honest.
    """

    name: str
    points: pl.DataFrame
    freedom: int | None


def levels_of(rows: pl.DataFrame) -> list[Level]:
    """All trials, between sources and within sources; each has the columns x, y, cluster and group."""
    cluster = pl.format("{} {}", pl.col("source").fill_null("none"), pl.col("set").fill_null(0)).alias("cluster")
    calibrated = rows.filter(pl.col("source").is_not_null())
    x, y, one = pl.col("x"), pl.col("y"), pl.lit("all").alias("group")
    cell = ["method_label", "source"]
    within = calibrated.filter(pl.len().over(cell) > 1)
    means = calibrated.group_by(*cell, maintain_order=True).agg(x.mean(), y.mean())
    # Methods see the same sources, so that a source is one point however many methods there are.
    everywhere = means.filter(pl.len().over("source") == pl.col("method_label").n_unique())
    apart = everywhere.with_columns(x - x.mean().over("method_label"), y - y.mean().over("method_label"))
    between = apart.group_by("source", maintain_order=True).agg(x.mean(), y.mean())
    sets, sources = within.select(cluster).n_unique(), within["source"].n_unique()
    group = pl.format("{} {}", "method_label", "source").alias("group")
    return [
        Level("all trials", rows.select("x", "y", cluster, one), None),
        Level("between sources", between.select("x", "y", pl.col("source").alias("cluster"), one), between.height - 1),
        Level("within sources", within.select("x", "y", cluster, group), sets - sources),
    ]


def correlated(level: Level, sign: float) -> dict[str, float | str | None]:
    """Both correlations of one level, with their intervals where there are any."""
    points = level.points
    found = correlation(
        sign * points["x"].to_numpy(),
        points["y"].to_numpy(),
        points["cluster"].to_numpy(),
        points["group"].to_numpy(),
        level.freedom or 0,
    )
    note = found.why if level.freedom is not None else "no interval: it depends on which methods the study has"
    row: dict[str, float | str | None] = {"note": note}
    for name, (value, low, high) in (("spearman", found.spearman), ("kendall", found.kendall)):
        row |= {name: None if np.isnan(value) else value, f"{name}_low": low, f"{name}_high": high}
    return row
