"""What a design cannot tell is said, and nothing else is."""

from __future__ import annotations

from itertools import product

import polars as pl

from analysis.checks import design_notes, listed


def grid(models: int = 1, sources: int = 2, sets: int = 3, *, dense: bool = True) -> pl.DataFrame:
    """A full grid of one method, and the dense model of each model."""
    common = {"device": "gpu", "commit": "c", "dtype": "float32", "fallbacks": 0}
    factors = product(range(models), range(sources), range(sets))
    rows = [
        {"model": f"m{m}", "method": "wanda", "method_label": "Wanda", "source": f"s{s}", "set": k, "condition": "c"}
        for m, s, k in factors
    ]
    for row in rows:
        row["calibration_hash"] = f"{row['source']} {row['set']}"
    blank = {"method": "dense", "method_label": "dense", "source": None, "set": None, "condition": None}
    rows += [{"model": f"m{m}", **blank} for m in range(models * dense)]
    return pl.DataFrame([{**row, **common} for row in rows], infer_schema_length=None)


def subjects(trials: pl.DataFrame) -> list[str]:
    return [note.subject for note in design_notes(trials)]


def test_a_full_grid_has_no_limitation() -> None:
    assert subjects(grid(models=2)) == []


def test_what_is_missing_is_named() -> None:
    assert subjects(grid(dense=False)) == ["no dense trial"]
    assert subjects(grid(sets=1)) == ["one set"]
    assert subjects(grid(sources=1)) == ["one source"]
    assert subjects(grid().slice(1)) == ["unfinished"]
    assert subjects(grid().filter(pl.col("method") == "dense")) == ["no calibration"]


def test_sets_of_the_same_tokens_are_named() -> None:
    second = (pl.col("source") == "s1") & (pl.col("set") == 2)
    copied = grid().with_columns(
        pl.when(second).then(pl.lit("s1 0")).otherwise("calibration_hash").alias("calibration_hash")
    )
    (note,) = design_notes(copied)
    assert (note.subject, note.text[:18]) == ("equal sets", "Sets of s1 are the")


def test_a_change_of_machine_and_fallbacks_are_named() -> None:
    first = pl.int_range(pl.len()) == 0
    moved = grid().with_columns(pl.when(first).then(pl.lit("other")).otherwise("device").alias("device"))
    fallen = grid().with_columns(pl.when(first).then(2).otherwise(0).alias("fallbacks"))
    (note,) = design_notes(moved)
    assert "several devices (gpu, other)" in note.text
    (note,) = design_notes(fallen)
    assert note.text == "1 trials used a recorded numerical fallback (2 linears)."


def test_long_lists_are_cut_and_counted() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdefg")) == "a, b, c, d and 3 more"
