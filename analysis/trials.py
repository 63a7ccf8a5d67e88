"""Rows of `trials/` as the trials of one study: known versions, one per id and per cell, told apart by name.

Every function gives the trials and what is to be said of those that it left out or had to assume something about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from analysis.checks import Limitation, listed
from calib.settings import SettingsError
from calib.source import get_source
from sweep.results import SCHEMA_VERSION, ResultsError

# Factors of a calibration set that stand in a condition when a study varies them, and words for their levels.
POLICIES = {
    "separator": {"none": "no separator", "\n\n": "separator empty line"},
    "add_bos": {"true": "with BOS", "false": "without BOS"},
}
# Factors that older rows could not vary: null means that a setting was not used. What the null is called comes first.
CHOICES: dict[str, tuple[str, str]] = {
    "first_token": ("", "begins with {}"),
    "document_bos": ("", "BOS of documents {}"),
    "distinct": ("all different", "{} different"),
    "select": ("as drawn", "select {}"),
    "exclude_overlap": ("overlap kept", "no {} words shared"),
    "part": ("every part", "{} alone"),
    "length_weights": ("one length", "lengths {}"),
}
USUAL = {"sampling": "windows", "separator": "eos", "add_bos": False}  # the defaults of `calib.spec`


def known_versions(trials: pl.DataFrame, root: str) -> tuple[pl.DataFrame, tuple[Limitation, ...]]:
    """Trials whose schema this code can read; older ones stay, with columns they lack as null."""
    version = pl.col("schema_version").fill_null(0)
    newer = trials.filter(version > SCHEMA_VERSION)
    if newer.height == trials.height:
        raise ResultsError(
            f"{root}: written by a newer version (schema {max(newer['schema_version'])}, known {SCHEMA_VERSION}); "
            "update this package"
        )
    notes = []
    if newer.height:
        text = f"{newer.height} trials have a newer schema than {SCHEMA_VERSION} and are left out; update this package."
        notes.append(Limitation("mixed schema versions", text))
    known = trials.filter(version <= SCHEMA_VERSION)
    older = known.filter(version < SCHEMA_VERSION)
    if older.height:
        every = older.height == known.height
        who = "All trials" if every else f"{older.height} of {known.height} trials"
        text = (
            f"{who} were written by an older version, which did not record what answers are worth: log-likelihood, "
            f"margin, probability, Brier score and calibration error are {'not here' if every else 'of the others'}. "
            "A run into a new folder has them."
        )
        notes.append(Limitation("older version" if every else "mixed schema versions", text))
    return known, tuple(notes)


def of_whole_models(trials: pl.DataFrame, root: str) -> tuple[pl.DataFrame, tuple[Limitation, ...]]:
    """Trials that compressed all of their model. Raises ResultsError where there is none."""
    parts = trials.filter(pl.col("first_blocks").is_not_null())
    if parts.is_empty():
        return trials, ()
    if parts.height == trials.height:
        raise ResultsError(
            f"{root}: its {parts.height} trial{'s' * (parts.height > 1)} compressed and looked at first blocks alone "
            "(first_blocks), which are no models; their block_error is in metrics/"
        )
    many = "trials compressed and looked at first blocks alone (first_blocks) and are left out."
    one = "trial compressed and looked at first blocks alone (first_blocks) and is left out."
    text = f"{parts.height} {many if parts.height > 1 else one}"
    return trials.filter(pl.col("first_blocks").is_null()), (Limitation("first blocks", text),)


def without_copies(trials: pl.DataFrame) -> tuple[pl.DataFrame, tuple[Limitation, ...]]:
    """One row per trial id: the latest, a successful one first."""
    ranked = trials.sort(
        pl.col("status") == "ok", pl.col("started"), descending=True, nulls_last=True, maintain_order=True
    )
    distinct = ranked.unique("trial_id", keep="first", maintain_order=True)
    copies = trials.height - distinct.height
    if not copies:
        return distinct, ()
    text = f"{copies} rows of trials/ repeat the id of another; the latest row of each id is used."
    return distinct, (Limitation("copied trials", text),)


def with_one_name_each(trials: pl.DataFrame, specs: pl.DataFrame) -> tuple[pl.DataFrame, tuple[Limitation, ...]]:
    """Sources by their text: one that was renamed while the study grew has its latest name in all rows.

    The label is no part of a set's id, and by default it is the name of a file. Sets that differ in more than their
    number keep names of their own: a study may give one text two, to compare seeds, say. `specs` are those of the
    calibration sets, (calibration_id, spec); trials of other sets keep their names.
    """
    texts: dict[str, str | None] = {}
    for spec in specs["spec"].drop_nulls().unique().to_list():
        try:
            stated = {key: value for key, value in json.loads(spec).items() if key != "set"}
        except (ValueError, AttributeError):  # damaged, or another program's
            texts[spec] = None
            continue
        whole = json.dumps(stated, sort_keys=True)
        texts[spec] = texts[whole] if whole in texts else texts.setdefault(whole, _text_of(stated))
    known = specs.with_columns(pl.col("spec").replace_strict(texts, default=None, return_dtype=pl.String).alias("text"))
    named = trials.join(known.select("calibration_id", "text"), on="calibration_id", how="left", maintain_order="left")
    latest = named.drop_nulls(["text", "source"]).sort("started", "trial_id", nulls_last=False)
    names = latest.group_by("text").agg(pl.col("source").last().alias("name"), pl.col("source").unique().sort())
    renamed = sorted({(name, tuple(labels)) for _, name, labels in names.iter_rows() if len(labels) > 1})
    notes = [
        Limitation("renamed sources", f"{' and '.join(labels)} are the same text, and are called {name} here.")
        for name, labels in renamed
    ]
    if not notes:
        return trials, ()
    named = named.join(names.select("text", "name"), on="text", how="left", maintain_order="left")
    return named.with_columns(pl.coalesce("name", "source").alias("source")).drop("text", "name"), tuple(notes)


def _text_of(spec: Mapping[str, Any]) -> str | None:
    """A spec without what its source is called and where that lies; None for a source that is not known."""
    try:
        source = get_source(spec["source"]).identity()
    except (KeyError, SettingsError):
        return None
    return json.dumps({**spec, "source": source}, sort_keys=True)


def with_conditions(trials: pl.DataFrame) -> pl.DataFrame:
    """`condition`: `128×2048 windows`, null for a trial without calibration data.

    What joins documents and whether a window begins with BOS stand in it where the study varies them.
    """
    size = pl.col("nsamples").cast(pl.String)
    every = pl.col("planned_nsamples").is_null() & pl.col("separator").is_not_null()  # every window that a source has
    parts = [
        pl.format("{}×{}", pl.when(every).then(pl.lit("all")).otherwise(size), "seqlen"),
        pl.lit(" "),
        pl.col("sampling").fill_null("windows"),
    ]
    for column, named in POLICIES.items():
        levels = trials.filter(pl.col("source").is_not_null())[column].drop_nulls().unique()
        if len(levels) > 1:
            level = pl.col(column).cast(pl.String)
            words = level.replace_strict(named, default=pl.lit(f"{column} ") + level).fill_null(f"unknown {column}")
            parts += [pl.lit(", "), words]
    parts += [part for column in CHOICES for part in _choice(trials, column)]
    condition = pl.when(pl.col("source").is_not_null()).then(pl.concat_str(parts)).otherwise(None)
    return trials.with_columns(condition.alias("condition"))


def _choice(trials: pl.DataFrame, column: str) -> list[pl.Expr]:
    """Parts of the condition that name the level of a choice, nothing where the study does not vary it."""
    if column not in trials.columns:
        return []
    level = choice_level(column)
    levels = trials.filter(pl.col("source").is_not_null()).select(level)[column].unique()
    if column == "first_token":  # of windows that begin with none there is nothing to say
        levels = levels.drop_nulls()
    if len(levels) < 2:
        return []
    absent, present = CHOICES[column]
    before, _, after = present.partition("{}")
    named = pl.concat_str(pl.lit(f", {before}"), level, pl.lit(after))
    return [named.fill_null(f", {absent}" if absent else "")]


def choice_level(column: str) -> pl.Expr:
    """The level of a choice as text; null where it is not used."""
    level = pl.col(column).cast(pl.String)
    if column == "document_bos":
        return level.fill_null("false")
    usual = pl.when(pl.col("add_bos")).then(pl.lit("bos"))
    return level.fill_null(usual).alias(column) if column == "first_token" else level


def main_condition(trials: pl.DataFrame) -> str | None:
    """The condition that most trials share; None where no trial has one.

    Of several with as many trials the largest, the longest, and the one with most settings as they are by default.
    """
    usual = [
        pl.col(name).is_null() | (pl.col(name) == value) for name, value in USUAL.items() if name in trials.columns
    ]
    choices = [name for name in CHOICES if name in trials.columns and name != "first_token"]
    usual += [choice_level(name).is_null() | (choice_level(name) == "false") for name in choices]
    rows = trials.drop_nulls("condition").with_columns(pl.sum_horizontal(pl.lit(0), *usual).alias("usual"))
    largest = [name for name in ("nsamples", "seqlen", "usual") if name in rows.columns]
    found = rows.group_by("condition").agg(pl.len(), pl.col(largest).max())
    order = found.sort("len", *largest, "condition", descending=[True, *[True] * len(largest), False])
    return None if order.is_empty() else str(order.item(0, "condition"))


def elsewhere_notes(trials: pl.DataFrame) -> tuple[Limitation, ...]:
    """Sources that have no trial under the main condition, and so are in no comparison."""
    main = main_condition(trials)
    named = trials.drop_nulls("source")
    inside = named.filter(pl.col("condition") == pl.lit(main, pl.String))["source"]
    outside = sorted({*named["source"].to_list()} - {*inside.to_list()})
    if not outside:
        return ()
    are = "are" if len(outside) > 1 else "is"
    text = (
        f"{listed(outside)} {are} compared with no other source: there are no trials under {main}, which answers and "
        "comparisons are about. Give sources that shall be compared the same size, sampling and separator."
    )
    return (Limitation("other conditions", text),)


def unstated_notes(trials: pl.DataFrame) -> tuple[Limitation, ...]:
    """Rows of an older version, which lack a factor that others state."""
    notes = []
    calibrated = trials.filter(pl.col("source").is_not_null())
    for column in (*POLICIES, "calibration_seed"):
        levels = calibrated[column].drop_nulls().unique().sort().to_list()
        silent = calibrated[column].null_count()
        if silent and levels:
            taken = (
                f"are taken to have {levels[0]!r}, as all others"
                if len(levels) == 1
                else f"stand apart from those with {', '.join(map(repr, levels))}"
            )
            notes.append(Limitation("older trials", f"{silent} trials do not state their {column} and {taken}."))
    return tuple(notes)


def with_numbered_draws(trials: pl.DataFrame) -> tuple[pl.DataFrame, tuple[Limitation, ...]]:
    """Sets of several calibration seeds are different draws of a source: they are numbered on, seed after seed."""
    calibrated = trials.filter(pl.col("source").is_not_null())
    if calibrated["calibration_seed"].drop_nulls().n_unique() < 2:
        return trials, ()
    seeds = calibrated["calibration_seed"].unique().sort(nulls_last=True).to_list()
    step = calibrated.select(pl.col("set").max()).item() + 1
    first = {seed: rank * step for rank, seed in enumerate(seeds)}
    told = ", ".join(f"{first[s]} to {first[s] + step - 1} are seed {'unknown' if s is None else s}" for s in seeds)
    text = f"Sets of {len(seeds)} calibration seeds are draws of their own, which may share text: sets {told}."
    start = pl.col("calibration_seed").replace_strict(first, return_dtype=pl.Int32)
    numbered = trials.with_columns((pl.col("set") + start).alias("set"))
    return numbered, (Limitation("several calibration seeds", text),)


def with_distinct_labels(trials: pl.DataFrame) -> pl.DataFrame:
    """Where one label stands for several settings, the settings that differ are added to it."""
    trials = trials.with_columns(pl.col("method_label").fill_null(pl.col("method")))
    for (label,), group in trials.group_by("method_label", maintain_order=True):
        texts = group["settings"].unique().drop_nulls().sort().to_list()
        if len(texts) < 2:
            continue
        parsed = {text: json.loads(text) for text in texts}
        flat = {text: value if isinstance(value, dict) else {"parts": value} for text, value in parsed.items()}
        keys = sorted({key for value in flat.values() for key in value})
        differ = [key for key in keys if len({json.dumps(v.get(key)) for v in flat.values()}) > 1]
        names = {t: f"{label} ({', '.join(f'{k}={v.get(k)}' for k in differ)})" for t, v in flat.items()}
        renamed = pl.col("settings").replace_strict(names, default=None)
        here = pl.col("method_label") == label
        trials = trials.with_columns(pl.when(here).then(renamed).otherwise("method_label").alias("method_label"))
    return trials


def one_trial_per_cell(trials: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, tuple[Limitation, ...]]:
    """(the latest trial of each cell, all trials of the cells that have several, what is to be said of it)."""
    notes = []
    cell = ["model", "method_label", "source", "set", "condition"]
    several = pl.len().over(cell) > 1
    alike = pl.col("calibration_hash").n_unique().over(cell) == 1
    repeats = trials.filter(several & alike)
    ranked = trials.sort("started", "trial_id", descending=True, nulls_last=True)
    kept = ranked.unique(cell, keep="first", maintain_order=True)
    if repeats.height:
        cells = repeats.n_unique(cell)
        text = (
            f"{cells} cells hold {repeats.height} trials (same model, method, source, set and condition); "
            "the latest of each is used, and the others measure repeat noise."
        )
        notes.append(Limitation("duplicate trials", text))
    unlike = trials.filter(several & ~alike)
    if unlike.height:
        text = (
            f"{unlike.n_unique(cell)} cells hold {unlike.height} trials whose calibration sets differ in something "
            "that is not recorded; the latest of each is used, the others are in no number below."
        )
        notes.append(Limitation("unlike trials of a cell", text))
    return kept, repeats, tuple(notes)
