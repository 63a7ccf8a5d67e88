"""What calibration sets share with the evaluation: n-grams in common, which flatter a result where there are any.

The sweep counts them for every set (`overlap/`); here they are added up by source and by what is evaluated. The hard
case is what a zero means: texts shorter than an n-gram can share nothing, so they are counted beside the others.
"""

from __future__ import annotations

import polars as pl

from analysis.frames import Study

SCHEMA = {
    "source": pl.String,
    "kind": pl.String,
    "name": pl.String,
    "unit": pl.String,
    **dict.fromkeys(["n", "sets", "sets_shared", "windows", "windows_shared"], pl.Int64),
    **dict.fromkeys(["texts", "texts_shared", "short"], pl.Int64),
    "largest_share": pl.Float64,
}


def overlap_table(study: Study) -> pl.DataFrame:
    """Per (source, kind, name, unit): how many sets, windows and evaluated texts share `n` words or tokens in a row.

    `sets_shared` of `sets` share an n-gram with a text, `windows_shared` of the `windows` of all of them.
    `texts_shared`: of the `texts` of a comparison, those that share with the set that shares most; `short` of them have
    no n-gram. `largest_share`: the largest share of the n-grams of one text that stand in one set.
    """
    rows = study.results.scan("overlap").collect(engine="in-memory")
    used = study.trials.drop_nulls("calibration_id").unique("calibration_id").select("calibration_id", "source")
    found = (
        rows.join(used, on="calibration_id")
        .group_by("source", "kind", "name", "unit", "n")
        .agg(
            pl.len().alias("sets"),
            (pl.col("texts_shared") > 0).sum().alias("sets_shared"),
            pl.col("windows", "windows_shared").sum(),
            pl.col("texts", "texts_shared", "short", "largest_share").max(),
        )
    )
    return found.select(*SCHEMA).cast(SCHEMA).sort("source", "kind", "name", "unit", "n")  # type: ignore[arg-type]


def most_shared(table: pl.DataFrame) -> pl.DataFrame:
    """The rows of `overlap_table` where something is shared, the largest part of the texts first."""
    part = pl.col("texts_shared") / pl.col("texts")
    shared = table.filter(pl.col("texts_shared") > 0).with_columns(part.alias("part"))
    order = shared.sort("part", "largest_share", "source", "name", "unit", descending=[True, True, False, False, False])
    return order.drop("part")
