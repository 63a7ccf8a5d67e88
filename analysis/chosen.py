"""Does it matter how the windows of a set are chosen and begun: selected or drawn, repeated, with BOS, without overlap?

Set k of a source is made of the same text under every rule, or of text from the same place, so two levels of an axis
are compared on the sets that both have, pair by pair, everything else equal. Selection is held against random choice
out of the same pool: that costs as much text and looks at none of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

from analysis.estimates.comparisons import holm
from analysis.estimates.welch import contrast
from analysis.frames import Study
from analysis.measures import MEAN, MEASURES
from analysis.trials import CHOICES, choice_level

AXES = (*CHOICES, "add_bos", "separator", "sampling")
REFERENCE = {
    "first_token": ("bos", None),
    "document_bos": ("false",),
    "add_bos": ("false",),
    "separator": ("eos",),
    "sampling": ("windows",),
}  # the first of these that a study has; else the level where the setting is not used
RANDOM = "random"
POOL = re.compile(r"\(.*?\bpool (\d+)")  # in the label of a rule, where it is not the default
EQUAL = ("model", "parameters", "method_label", "source", "nsamples", "seqlen")
SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "method_label": pl.String,
    "axis": pl.String,
    "level": pl.String,
    "reference": pl.String,
    **dict.fromkeys(["pairs", "sources"], pl.Int64),
    **dict.fromkeys(["mean", "mean_reference", "difference", "low", "high", "p", "p_holm", "seconds"], pl.Float64),
    "note": pl.String,
}


def choice_table(study: Study, measure: str = "perplexity_increase") -> pl.DataFrame:
    """Per (model, method, axis, level): the measure minus that of the axis's reference level, on the same sets.

    `difference` is positive where the level is better than its reference, averaged over the sources with equal weight;
    `low` to `high` is the 95 % interval over sets and `p_holm` is corrected within a (model, method). `seconds`: what
    the selection of a set costs, on average. `note` says why there is no interval.
    """
    levels = [choice_level(axis) if axis in CHOICES else pl.col(axis).cast(pl.String) for axis in AXES]
    factors = study.trials.filter(pl.col("source").is_not_null()).select("trial_id", "seconds_select", *levels)
    chosen = pl.col("measure") == measure, pl.col("task") == MEAN, pl.col("value").is_not_null()
    rows = study.values.filter(*chosen).select("trial_id", *EQUAL, "set", "value").join(factors, on="trial_id")
    found: list[dict[str, object]] = []
    for axis in AXES:
        for level, reference in _pairs_of_levels(rows, axis):
            found += _compared(rows, axis, level, reference, measure)
    return _corrected(pl.DataFrame(found, SCHEMA)).sort("parameters", "model", "method_label", "axis", "level")


def _pairs_of_levels(rows: pl.DataFrame, axis: str) -> list[tuple[str | None, str | None]]:
    """(level, reference) of an axis that varies."""
    levels = rows[axis].unique().to_list()
    if len(levels) < 2:
        return []
    if axis == "select":
        pairs = [(level, _reference_rule(level, levels)) for level in sorted(levels, key=str)]
        return [(level, reference) for level, reference in pairs if level != reference]
    reference = next((level for level in REFERENCE.get(axis, ()) if level in levels), None)
    if reference is None and None not in levels:
        reference = min(level for level in levels if level is not None)
    return [(level, reference) for level in sorted(levels, key=str) if level != reference]


def _reference_rule(level: str | None, levels: Sequence[str | None]) -> str | None:
    """Random choice out of a pool of the same size; where a study has none, no selection, or else any one level."""
    named = sorted(name for name in levels if name is not None)
    pool = POOL.search(level or "")
    random = f"{RANDOM} (pool {pool[1]})" if pool else RANDOM
    if level is not None and level != random and random in levels:
        return random
    return None if None in levels else next((name for name in named if name.startswith(RANDOM)), named[0])


def _compared(
    rows: pl.DataFrame, axis: str, level: str | None, reference: str | None, measure: str
) -> list[dict[str, object]]:
    """One row for each model and method that has both levels."""
    others = [other for other in AXES if other != axis]
    cell = [*EQUAL, "set", *others]
    one, other = (rows.filter(pl.col(axis).eq_missing(pl.lit(name, pl.String))) for name in (level, reference))
    pairs = one.join(other.select(*cell, reference="value"), on=cell, nulls_equal=True)
    sign = 1.0 if MEASURES[measure].higher_is_better else -1.0
    gap = sign * (pl.col("value") - pl.col("reference"))
    sets = pairs.group_by("model", "parameters", "method_label", "source", "set", maintain_order=True).agg(
        gap.mean().alias("gap"), pl.col("value", "reference").mean(), pl.col("seconds_select").mean()
    )
    found: list[dict[str, object]] = []
    for (model, parameters, label), part in sets.group_by("model", "parameters", "method_label", maintain_order=True):
        groups = [source.sort("set")["gap"].to_numpy() for _, source in part.group_by("source", maintain_order=True)]
        interval = contrast(groups, [1 / len(groups)] * len(groups))
        found.append(
            {
                "model": model,
                "parameters": parameters,
                "method_label": label,
                "axis": axis,
                "level": _named(axis, level),
                "reference": _named(axis, reference),
                "pairs": part.height,
                "sources": len(groups),
                "mean": part["value"].mean(),
                "mean_reference": part["reference"].mean(),
                "difference": interval.value,
                "low": interval.low,
                "high": interval.high,
                "p": interval.p,
                "seconds": part["seconds_select"].mean(),
                "note": "" if interval.low is not None else "no interval: no two sets of a source differ",
            }
        )
    return found


def _named(axis: str, level: str | None) -> str:
    if level is not None:
        return level
    return CHOICES[axis][0] or "none" if axis in CHOICES else "none"


def _corrected(table: pl.DataFrame) -> pl.DataFrame:
    """With Holm's p within each model and method."""
    parts = []
    for _, part in table.group_by("model", "method_label", maintain_order=True):
        known = part.drop_nulls("p")
        corrected = known.with_columns(pl.Series("p_holm", holm(known["p"].to_list()), pl.Float64))
        parts += [corrected, part.filter(pl.col("p").is_null())]
    return pl.concat(parts) if parts else table
