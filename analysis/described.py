"""Do numbers that describe a calibration set tell what the set does to a model?

Descriptors (entropy, duplicates, distance from the evaluation, what the dense model makes of the text) cost seconds
where a trial costs minutes. Each is held against the outcomes twice: between the means of sources, and within sources,
where only the luck of the draw differs. Many descriptors are tried, so of twenty intervals that exclude zero one does
so by chance, and none of them says that the descriptor is the cause.
"""

from __future__ import annotations

import polars as pl

from analysis.cells import measures_of, relation_table
from analysis.correlation import correlated, levels_of
from analysis.frames import Study
from analysis.measures import MEASURES

OUTCOMES = ("accuracy", "perplexity_increase", "perplexity")
FEWEST = 4  # points of a correlation
OF_METHOD = " of "  # `target_error of GPTQ 4-bit`: a number of a set and a method, for the trials of that method
SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "measure": pl.String,
    "descriptor": pl.String,
    "level": pl.String,
    "n": pl.Int64,
    **dict.fromkeys(
        ["spearman", "spearman_low", "spearman_high", "kendall", "kendall_low", "kendall_high"], pl.Float64
    ),
    "note": pl.String,
}


def descriptor_table(study: Study) -> pl.DataFrame:
    """Per (condition, source, descriptor, target, model): mean and SD over the sets, how many there are, seconds.

    `target` is the held-out text that sets are compared with, '' where there is none; `model` is the one that was
    asked, '' for descriptors of the tokens alone.
    """
    keys = ["condition", "source", "descriptor", "target", "model"]
    sets = study.trials.drop_nulls("calibration_id").unique("calibration_id")
    rows = _descriptors(study).join(sets.select("calibration_id", "source", "condition"), on="calibration_id")
    value = pl.col("value")
    return (
        rows.drop_nulls("value")
        .group_by(keys)
        .agg(value.mean().alias("mean"), value.std().alias("sd"), pl.len().alias("sets"), pl.col("seconds").mean())
        .sort(keys)
    )


def descriptor_correlations(study: Study) -> pl.DataFrame:
    """Rank correlation of each descriptor with each outcome, between and within sources, per model.

    The sign is turned so that +1 means: the larger the descriptor, the better the outcome. Of a descriptor with targets
    it is the mean over the targets, as the outcome is a mean over tasks or texts. `n` counts sources at the level
    `between sources`, trials within. Levels with fewer than four points are left out; `note` says why there is no
    interval.
    """
    relation = relation_table(study).filter(pl.col("source").is_not_null())
    described = _descriptors(study).group_by("calibration_id", "model", "descriptor").agg(pl.col("value").mean())
    ids = study.trials.select("trial_id", "calibration_id", method_of_trial="method_label")
    found: list[dict[str, object]] = []
    for measure in measures_of(study, OUTCOMES):
        outcomes = relation.drop_nulls(measure).join(ids, on="trial_id").rename({measure: "y"})
        sign = 1.0 if MEASURES[measure].higher_is_better else -1.0
        for (name,), numbers in described.drop_nulls("value").group_by("descriptor", maintain_order=True):
            if method := str(name).partition(OF_METHOD)[2]:
                of_trials = outcomes.filter(pl.col("method_of_trial") == method)
            else:
                of_trials = outcomes
            alone = numbers.filter(pl.col("model") == "").select("calibration_id", x="value")
            asked = numbers.filter(pl.col("model") != "").select("calibration_id", "model", x="value")
            joined = of_trials.join(alone, on="calibration_id")
            joined = joined if joined.height else of_trials.join(asked, on=["calibration_id", "model"])
            for (model, parameters), part in joined.group_by("model", "parameters", maintain_order=True):
                context = {"model": model, "parameters": parameters, "measure": measure, "descriptor": name}
                found += [{**context, **row} for row in _levels(part.with_columns(pl.col("y") * sign))]
    keys = ["parameters", "model", "measure", "descriptor", "level"]
    return pl.DataFrame(found, SCHEMA).sort(keys)


def _levels(rows: pl.DataFrame) -> list[dict[str, object]]:
    """The correlations of one model, outcome and descriptor that have points enough."""
    found: list[dict[str, object]] = []
    for level in levels_of(rows):
        points = level.points
        several = points.height >= FEWEST and points["x"].n_unique() > 1 and points["y"].n_unique() > 1
        if level.name != "all trials" and several:
            found.append({"level": level.name, "n": points.height, **correlated(level, 1.0)})
    return found


def _descriptors(study: Study) -> pl.DataFrame:
    return study.results.scan("descriptors").collect(engine="in-memory").sort("calibration_id", "descriptor", "target")
