"""What the numbers of a study do not cover, one sentence each: the words that the report shows on its first screen.

Words of this package: a *limitation* is one thing that was left out or assumed; a *cell* is what trials of one model,
method, source, set and condition have in common; a *condition* is the size, length, sampling and policy of calibration
sets (`16×256 windows`); a *policy* is what joins documents and whether a window begins with BOS; *dense* is the
uncompressed model and *data-free* a method that sees no calibration data; a *share* is a fraction of a whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class Limitation:
    """One thing that the numbers do not cover. `subject` is a word or two, `text` a sentence."""

    subject: str
    text: str


def listed(names: Sequence[str], most: int = 4) -> str:
    """`a, b, c, d and 3 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def true_minus(text: str) -> str:
    """The text with a minus sign, not a hyphen, before its negative numbers."""
    return re.sub(r"(?<![\w.,-])-(?=\d)", "−", text)


def design_notes(trials: pl.DataFrame) -> tuple[Limitation, ...]:
    """What the design itself cannot tell: no dense model, one set, holes in the grid, a change of machine."""
    dense = trials.filter(pl.col("method") == "dense")["model"].unique().to_list()
    notes = [
        Limitation(
            "no dense trial",
            f"{model} has no dense trial, so nothing can be said relative to the uncompressed model.",
        )
        for model in sorted(set(trials["model"].to_list()) - set(dense))
    ]
    calibrated = trials.filter(pl.col("source").is_not_null())
    if calibrated.is_empty():
        text = "No trial used calibration data, so there is no effect to estimate."
        return (*notes, Limitation("no calibration", text))
    return (*notes, *_grid_notes(calibrated), *_machine_notes(trials))


def _grid_notes(calibrated: pl.DataFrame) -> list[Limitation]:
    """Cells with one set or with none."""
    notes = []
    per_cell = calibrated.group_by("model", "method_label", "source", "condition").len()
    single = per_cell.filter(pl.col("len") == 1).height
    if single == per_cell.height:
        text = (
            "Every source has one set only: the luck of the draw cannot be told from the effect of the source. "
            "Means are shown without spread; run at least three sets."
        )
        notes.append(Limitation("one set", text))
    elif single:
        notes.append(Limitation("one set", f"{single} of {per_cell.height} cells have one set and hence no spread."))
    if copied := _copied_sets(calibrated):
        text = (
            f"Sets of {listed(copied)} are the same tokens under several numbers, as of a text that repeats itself: "
            "their spread is not the luck of a draw, and such a source looks surer than it is."
        )
        notes.append(Limitation("equal sets", text))
    if calibrated["source"].n_unique() == 1:
        notes.append(Limitation("one source", "There is one source, so sources cannot be compared."))
    for (condition,), part in calibrated.group_by("condition", maintain_order=True):
        full = math.prod(part[factor].n_unique() for factor in ("model", "method_label", "source", "set"))
        if part.height < full:
            holes = full - part.height
            text = f"{holes} of {full} cells of the grid ({condition}) have no result; n is stated everywhere."
            notes.append(Limitation("unfinished", text))
    return notes


def _copied_sets(calibrated: pl.DataFrame) -> list[str]:
    """Sources of which two sets of one size hold the same tokens."""
    sets = calibrated.drop_nulls("calibration_hash").unique(["model", "source", "condition", "set"])
    alike = sets.group_by("model", "source", "condition", "calibration_hash").len().filter(pl.col("len") > 1)
    return alike["source"].unique().sort().to_list()


def _machine_notes(trials: pl.DataFrame) -> list[Limitation]:
    """Several machines or versions, and numerical fallbacks."""
    notes = []
    for column, what in (("device", "devices"), ("commit", "commits"), ("dtype", "dtypes")):
        kinds = trials[column].drop_nulls().unique().sort().to_list()
        if len(kinds) > 1:
            named = ", ".join(map(str, kinds[:4]))
            text = f"Trials ran with several {what} ({named}); small differences may come from that."
            notes.append(Limitation(f"several {what}", text))
    fallbacks = trials.filter(pl.col("fallbacks") > 0)
    if fallbacks.height:
        text = f"{fallbacks.height} trials used a recorded numerical fallback ({fallbacks['fallbacks'].sum()} linears)."
        notes.append(Limitation("numerical fallbacks", text))
    return notes


def unlike_notes(trials: pl.DataFrame, metrics: pl.DataFrame) -> tuple[Limitation, ...]:
    """Things that share a name and are not the same: tasks of other examples, models of other files."""
    notes = []
    kinds = metrics.filter(pl.col("kind").is_in(["task", "perplexity"])).drop_nulls(["n", "value"])
    named = kinds.join(trials.select("trial_id", "model"), on="trial_id")
    alike = ["model", "task", "metric"]  # tokenizers cut texts differently, and some metrics leave examples out
    sizes = named.group_by(alike).agg(pl.col("n").unique().sort()).filter(pl.col("n").list.len() > 1)
    first = sizes.sort(alike).unique(["model", "task"], keep="first", maintain_order=True)
    for model, task, counts in first.select("model", "task", "n").iter_rows():
        text = (
            f"{task} was evaluated with {model} on {' or '.join(map(str, counts))} examples; "
            "values of such trials are not alike."
        )
        notes.append(Limitation("several test sizes", text))
    models = trials.drop_nulls("model_id").group_by("model").agg(pl.col("model_id").unique().sort())
    for model, ids in models.filter(pl.col("model_id").list.len() > 1).sort("model").iter_rows():
        text = f"{model} stands for {len(ids)} models ({listed(ids)}); give them names of their own."
        notes.append(Limitation("several models of one name", text))
    return tuple(notes)
