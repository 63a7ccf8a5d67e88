"""Which source is best, how sure is that, and does the answer carry over to other tasks and models?

A ranking of means is not an answer: with three sets per source the best mean is often luck. So the true means of the
sources get the distribution that their draws allow, and from it come the probability of being best and the expected
regret: how much worse than the best source one is, on average, with this choice.

The estimators, and what they do about the winner's curse, stand in `analysis.estimates.ranks`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from analysis.estimates.agreement import agreement
from analysis.estimates.clusters import WORDS, two_groups
from analysis.estimates.ranks import rank
from analysis.estimates.spreads import far_words, typical
from analysis.estimates.trend import log_variance_trend
from analysis.estimates.welch import LOPSIDED, lopsided, set_variance
from analysis.frames import Study
from analysis.measures import MEAN, MEASURES

EQUAL = "these sets do not clearly show that sources differ"
RANK_SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "method_label": pl.String,
    "task": pl.String,
    "source": pl.String,
    "n": pl.Int64,
    **dict.fromkeys(["mean", "p_best", "p_best_single_set", "regret", "regret_high"], pl.Float64),
    "note": pl.String,
}


def rank_table(study: Study, measure: str = "accuracy", task: str = MEAN) -> pl.DataFrame:
    """Per (model, method, source): probability of being the best source, and expected regret of choosing it.

    `p_best` is about the typical draw of a source, `p_best_single_set` about one new set of each. `regret` is in the
    measure's unit, `regret_high` its 95 % quantile. The test examples are these; see `analysis.compare` for new ones.
    Null where no two sets of a source differ: nothing is known of the luck of a draw then. Both probabilities are null
    as well where the sets do not clearly show that sources differ, because the leader of equal sources is no better
    than the others; `note` says so.
    """
    rows = study.calibrated.filter(pl.col("measure") == measure, pl.col("task") == task).drop_nulls("value")
    sign = 1.0 if MEASURES[measure].higher_is_better else -1.0
    found: list[dict[str, object]] = []
    groups = rows.group_by("model", "parameters", "method_label", maintain_order=True)
    for (model, parameters, label), part in groups:
        cells = {str(s): sign * p["value"].to_numpy() for (s,), p in part.group_by("source", maintain_order=True)}
        ranked = rank(cells)
        for source, values in ranked.items():
            context = {"model": model, "parameters": parameters, "method_label": label, "task": task, "source": source}
            note = EQUAL if "regret" in values and "p_best" not in values else ""
            mean = sign * float(cells[source].mean())
            found.append({**context, "n": len(cells[source]), "mean": mean, **values, "note": note})
    frame = pl.DataFrame(found, RANK_SCHEMA)
    return frame.sort("parameters", "model", "method_label", "regret", "source", nulls_last=True)


AGREEMENT_SCHEMA = {
    "over": pl.String,
    "model": pl.String,
    "method_label": pl.String,
    **dict.fromkeys(["judges", "sources"], pl.Int64),
    **dict.fromkeys(["w", "p"], pl.Float64),
    "order": pl.String,
    "note": pl.String,
}


def agreement_table(study: Study, measure: str = "accuracy") -> pl.DataFrame:
    """Kendall's W of the order of sources: over tasks within a (model, method), and over models within a method.

    W is 1 when every task (or model) orders the sources alike and 0 when the orders have nothing in common; `p` is for
    sources that do not differ: calibration sets, each with all its values, change their sources, because one set moves
    all tasks. `order` lists the sources by their mean rank, best first. `note` says why W or p is null.
    """
    rows = study.calibrated.filter(pl.col("measure") == measure).drop_nulls("value")
    found: list[dict[str, object]] = []
    tasks = rows.filter(pl.col("task") != MEAN)
    for (model, label), part in tasks.group_by("model", "method_label", maintain_order=True):
        found += _agreement(part, "task", measure, {"over": "tasks", "model": model, "method_label": label})
    overall = rows.filter(pl.col("task") == MEAN)
    for (label,), part in overall.group_by("method_label", maintain_order=True):
        found += _agreement(part, "model", measure, {"over": "models", "model": None, "method_label": label})
    return pl.DataFrame(found, AGREEMENT_SCHEMA).sort("over", "model", "method_label")


def _agreement(part: pl.DataFrame, judge: str, measure: str, context: dict[str, object]) -> list[dict[str, object]]:
    """One row; none for a single judge or source. Sets that some judge lacks are left out."""
    wide = part.pivot(on=judge, index=["source", "set"], values="value", sort_columns=True).drop_nulls()
    wide = wide.sort("source", "set")
    names, judges = wide["source"].unique().sort().to_list(), len(wide.columns) - 2
    if judges < 2 or len(names) < 2:
        return []
    values = wide.drop("source", "set").to_numpy() * (-1 if MEASURES[measure].higher_is_better else 1)
    owner = wide["source"].replace_strict(names, list(range(len(names))), return_dtype=pl.Int64).to_numpy()
    found = agreement(values, owner)
    order = (
        " = ".join(names) if np.isnan(found.w) else " > ".join(names[i] for i in np.argsort(found.ranks, kind="stable"))
    )
    row = {**context, "judges": judges, "sources": len(names), "order": order, "note": found.why}
    return [{**row, "w": None if np.isnan(found.w) else found.w, "p": None if np.isnan(found.p) else found.p}]


SENSITIVITY_SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "method_label": pl.String,
    **dict.fromkeys(["n", "sources"], pl.Int64),
    **dict.fromkeys(["sd_within", "low", "high", "sd_typical", "freedom"], pl.Float64),
    "note": pl.String,
}


def sensitivity_table(study: Study, measure: str = "accuracy", task: str = MEAN) -> pl.DataFrame:
    """SD over the draws of one source per (model, method), every source alike, with its 95 % interval.

    The interval is χ², its lower limit with Satterthwaite's degrees of freedom (`freedom`), its upper with fewer.
    `sd_typical` leaves out the sets that are far off: where there are any, `sd_within` has no interval, because another
    study would not find it again, and `note` names them.
    """
    found: list[dict[str, object]] = []
    for context, cells in _cells(study, measure, task):
        groups = list(cells.values())
        variance = set_variance(groups)
        if not variance.freedom:
            continue
        kept, far = typical(groups)
        usual = set_variance(kept).value
        low = high = None
        apart = two_groups(groups)
        if variance.value > 0 and not any(far) and not apart and not lopsided(groups):
            low, high = (bound**0.5 for bound in variance.interval())
        note = "no two sets of a source differ" if variance.value == 0 else far_words(list(cells), groups, far)
        if not note and (apart or lopsided(groups)):
            note = f"no interval: {WORDS if apart else LOPSIDED}"
        row = {
            "n": sum(map(len, groups)),
            "sources": len(groups),
            "sd_within": variance.value**0.5,
        }
        row |= {"low": low, "high": high, "sd_typical": usual**0.5, "freedom": variance.freedom}
        found.append({**context, **row, "note": note})
    return pl.DataFrame(found, SENSITIVITY_SCHEMA).sort("parameters", "model", "method_label")


def _cells(study: Study, measure: str, task: str) -> Iterator[tuple[dict[str, object], dict[str, np.ndarray]]]:
    """(model, parameters, method_label) and the values of the sets of each source, by name."""
    rows = study.calibrated.filter(pl.col("measure") == measure, pl.col("task") == task).drop_nulls("value")
    rows = rows.sort("parameters", "model", "method_label", "source", "set")
    keys = ["model", "parameters", "method_label"]
    for key, part in rows.group_by(keys, maintain_order=True):
        sources = part.group_by("source", maintain_order=True)
        yield dict(zip(keys, key, strict=True)), {str(name): rows["value"].to_numpy() for (name,), rows in sources}


TREND_SCHEMA = {
    "method_label": pl.String,
    "models": pl.Int64,
    **dict.fromkeys(["factor_per_tenfold", "low", "high", "p"], pl.Float64),
    "freedom": pl.Int64,
    "note": pl.String,
}


def trend_table(study: Study, measure: str = "accuracy", task: str = MEAN) -> pl.DataFrame:
    """Does the sensitivity to draws change with model size? One row per method with two models or more.

    `factor_per_tenfold` is what ten times the parameters do to the SD over typical draws (0.5: halved), with its 95 %
    interval and the p value of no change: weighted regression of log SD² on log parameters, Student's t with as many
    degrees of freedom as models are left over after the line. Two models leave none: they have no interval.
    """
    spread: dict[object, list[tuple[float, float, float]]] = {}
    for context, cells in _cells(study, measure, task):
        usual = set_variance(typical(list(cells.values()))[0])
        if usual.freedom and usual.value > 0:
            size = float(str(context["parameters"]))
            spread.setdefault(context["method_label"], []).append((usual.value, usual.freedom, size))
    found: list[dict[str, object]] = []
    for label, models in spread.items():
        variance_, freedom_, parameters = (np.array(column) for column in zip(*models, strict=True))
        if len(np.unique(parameters)) < 2:
            continue
        trend = log_variance_trend(variance_, freedom_, np.log10(parameters))
        note = "" if trend.low is not None else f"{len(models)} models lie on a line whatever they are: no interval"
        values = {"low": trend.low, "high": trend.high, "p": trend.p, "freedom": trend.freedom, "note": note}
        found.append({"method_label": label, "models": len(models), "factor_per_tenfold": trend.factor, **values})
    return pl.DataFrame(found, TREND_SCHEMA).sort("method_label")
