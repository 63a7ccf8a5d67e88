"""Which source is best, how sure is that, and does the answer carry over to other tasks and models?

A ranking of means is not an answer: with three sets per source the best mean is often luck. So the true means of the
sources get the distribution that their draws allow, and from it come the probability of being best and the expected
regret: how much worse than the best source one is, on average, with this choice.

The estimators, and what they do about the winner's curse, stand in `analysis.estimates.ranks`.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy import stats

from analysis.estimates.ranks import kendall_w, log_variance_trend, rank
from analysis.frames import Study
from analysis.measures import MEAN, MEASURES
from analysis.tables import range_table

RANK_SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "method_label": pl.String,
    "task": pl.String,
    "source": pl.String,
    "n": pl.Int64,
    **dict.fromkeys(["mean", "p_best", "p_best_single_set", "regret", "regret_high"], pl.Float64),
}


def rank_table(study: Study, measure: str = "accuracy", task: str = MEAN, seed: int = 0) -> pl.DataFrame:
    """Per (model, method, source): probability of being the best source, and expected regret of choosing it.

    `p_best` is about the mean over all draws from a source, `p_best_single_set` about one new set of each. `regret` is
    in the measure's unit, `regret_high` its 95 % quantile. The test examples are these; see `analysis.compare` for new
    ones.
    """
    rows = study.calibrated.filter(pl.col("measure") == measure, pl.col("task") == task).drop_nulls("value")
    sign = 1.0 if MEASURES[measure].higher_is_better else -1.0
    found: list[dict[str, object]] = []
    groups = rows.group_by("model", "parameters", "method_label", maintain_order=True)
    for number, ((model, parameters, label), part) in enumerate(groups):
        cells = {str(s): sign * p["value"].to_numpy() for (s,), p in part.group_by("source", maintain_order=True)}
        ranked = rank(cells, np.random.default_rng([seed, number]))
        for source, values in ranked.items():
            context = {"model": model, "parameters": parameters, "method_label": label, "task": task, "source": source}
            found.append({**context, "n": len(cells[source]), "mean": sign * float(cells[source].mean()), **values})
    frame = pl.DataFrame(found, RANK_SCHEMA)
    return frame.sort(
        "parameters", "model", "method_label", "p_best", "source", descending=[False, False, False, True, False]
    )


AGREEMENT_SCHEMA = {
    "over": pl.String,
    "model": pl.String,
    "method_label": pl.String,
    **dict.fromkeys(["judges", "sources"], pl.Int64),
    **dict.fromkeys(["w", "p"], pl.Float64),
    "order": pl.String,
}


def agreement_table(study: Study, measure: str = "accuracy") -> pl.DataFrame:
    """Kendall's W of the order of sources: over tasks within a (model, method), and over models within a method.

    W is 1 when every task (or model) orders the sources alike and 0 when the orders have nothing in common; `p` is for
    the hypothesis of no agreement. `order` lists the sources by their mean rank, best first. Where every judge ties all
    sources there is no order, and W and p are null.
    """
    rows = study.calibrated.filter(pl.col("measure") == measure).drop_nulls("value")
    means = rows.group_by("model", "method_label", "task", "source", maintain_order=True).agg(pl.col("value").mean())
    found: list[dict[str, object]] = []
    tasks = means.filter(pl.col("task") != MEAN)
    for (model, label), part in tasks.group_by("model", "method_label", maintain_order=True):
        found += _agreement(part, "task", measure, {"over": "tasks", "model": model, "method_label": label})
    overall = means.filter(pl.col("task") == MEAN)
    for (label,), part in overall.group_by("method_label", maintain_order=True):
        found += _agreement(part, "model", measure, {"over": "models", "model": None, "method_label": label})
    return pl.DataFrame(found, AGREEMENT_SCHEMA).sort("over", "model", "method_label")


def _agreement(part: pl.DataFrame, judge: str, measure: str, context: dict[str, object]) -> list[dict[str, object]]:
    wide = part.pivot(on="source", index=judge, values="value", sort_columns=True).drop_nulls()
    names = wide.columns[1:]
    if wide.height < 2 or len(names) < 2:
        return []
    values = wide.select(names).to_numpy() * (-1 if MEASURES[measure].higher_is_better else 1)
    w, p, ranks = kendall_w(values)
    if np.isnan(w):
        return [{**context, "judges": wide.height, "sources": len(names), "order": " = ".join(names)}]
    order = " > ".join(names[i] for i in np.argsort(ranks, kind="stable"))
    return [{**context, "judges": wide.height, "sources": len(names), "w": w, "p": p, "order": order}]


TREND_SCHEMA = {
    "method_label": pl.String,
    "models": pl.Int64,
    **dict.fromkeys(["factor_per_tenfold", "low", "high", "p"], pl.Float64),
}


def sensitivity_table(study: Study, measure: str = "accuracy", task: str = MEAN) -> pl.DataFrame:
    """SD over the draws of one source per (model, method), with the 95 % interval of an SD (χ²)."""
    table = range_table(study, measure, task).drop_nulls("sd_within")
    freedom = pl.col("n") - pl.col("sources")
    degrees = table.select(freedom).to_series().to_numpy()
    low, high = ((degrees / stats.chi2.ppf(quantile, degrees)) ** 0.5 for quantile in (0.975, 0.025))
    columns = ["model", "parameters", "method_label", "n", "sources", "sd_within", "low", "high"]
    return (
        table.with_columns(
            (pl.col("sd_within") * pl.Series(low, dtype=pl.Float64)).alias("low"),
            (pl.col("sd_within") * pl.Series(high, dtype=pl.Float64)).alias("high"),
        )
        .select(columns)
        .sort("parameters", "model", "method_label")
    )


def trend_table(study: Study, measure: str = "accuracy", task: str = MEAN) -> pl.DataFrame:
    """Does the sensitivity to draws change with model size? One row per method with two models or more.

    `factor_per_tenfold` is what ten times the parameters do to the SD over draws (0.5: halved), with its 95 % interval
    and the p value of no change: weighted regression of log SD² on log parameters; log of a χ² variable has a known
    mean and variance, so that even two models have an interval, a wide one.
    """
    found: list[dict[str, object]] = []
    table = sensitivity_table(study, measure, task).filter(pl.col("sd_within") > 0)
    for (label,), part in table.group_by("method_label", maintain_order=True):
        if part["parameters"].n_unique() > 1:
            freedom = (part["n"] - part["sources"]).to_numpy()
            trend = log_variance_trend(
                part["sd_within"].to_numpy() ** 2, freedom, np.log10(part["parameters"].to_numpy())
            )
            found.append({"method_label": label, "models": part.height, **trend})
    return pl.DataFrame(found, TREND_SCHEMA).sort("method_label")
