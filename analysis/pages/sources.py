"""Every set as a dot, per measure; the published table and the ranges."""

from __future__ import annotations

import polars as pl

from analysis.cells import baselines, measures_of, over_sets, range_table, source_table, wide_table
from analysis.charts.spreads import spread_figure
from analysis.evidence import Evidence
from analysis.findings import mean_rows
from analysis.frames import Study
from analysis.measures import MEAN, MEASURES
from analysis.page.chart import Chart
from analysis.page.html import Figure, Section, Table
from analysis.page.render import number
from analysis.pages.common import each_model, table

FEW = 3  # sentences of sets that are far off under a table


def section(evidence: Evidence) -> Section:
    study = evidence.study
    items: list[Figure | Table] = []
    for measure in measures_of(study):
        info = MEASURES[measure]
        variants = _variants(study, measure)
        if variants:
            title = f"{info.title}: every calibration set"
            caption = "Where intervals of two sources overlap widely, the draw matters as much as the source."
            items.append(Figure(f"figure-spread-{measure}", title, caption, variants))
        rows = source_table(study, measure)
        items.append(
            table(
                rows,
                source_table,
                measure,
                id=f"source-{measure}",
                title=f"{info.title} by source",
                caption="Mean ± SD over calibration sets, mean over tasks or texts; "
                f"{info.better}. Without ±: one trial.{_far_off(rows)}",
                shown=_no_data_first(wide_table(study, measure)),
            )
        )
        items.append(
            table(
                range_table(study, measure),
                range_table,
                measure,
                id=f"ranges-{measure}",
                title=f"{info.title}: range over all sets",
                caption="Smallest, largest and range over all sets of all sources; SD within a source and between "
                "source means.",
            )
        )
    return Section("sources", "How much do sources and draws matter?", items=items)


def _far_off(rows: pl.DataFrame) -> str:
    """Where a mean follows a set that is far off; the rows have the median and the SD of the other sets beside it."""
    told = [
        f"{row['note']} ({row['model']}, {row['method_label']}: median {number(row['median'])}, SD of the others "
        f"{number(row['sd_typical'])})"
        for row in rows.filter(pl.col("note") != "").iter_rows(named=True)
    ]
    if not told:
        return ""
    left = len(told) - FEW
    more = f"; {left} more {'is' if left == 1 else 'are'} in the rows" if left > 0 else ""
    return f" Means follow sets that are far off: {'; '.join(told[:FEW])}{more}."


def _no_data_first(wide: pl.DataFrame) -> pl.DataFrame:
    """The control beside the method, where a wide table is read first."""
    first = [name for name in ("model", "method", "no data") if name in wide.columns]
    return wide.select(*first, pl.exclude(first))


def _variants(study: Study, measure: str) -> list[tuple[str, Chart]]:
    """A chart per model."""
    rows = mean_rows(study, measure).drop_nulls("value")
    variants = []
    for model in each_model(study):
        here = rows.filter(pl.col("model") == model)
        values = here.filter(pl.col("source").is_not_null()).with_columns(pl.col("source").alias("row"))
        if values.height:
            summary = over_sets(values, ["method_label", "row"])
            variants.append((model, spread_figure(values, summary, measure, model, references(study, measure, model))))
    return variants


def references(study: Study, measure: str, model: str) -> pl.DataFrame:
    """(method_label, name, value): what the sources of a method are seen against, dense and its data-free control."""
    chosen = pl.col("measure") == measure, pl.col("task") == MEAN, pl.col("model") == model
    rows = study.main.filter(*chosen).drop_nulls("value")
    controls = baselines(study)
    free = dict(rows.filter(pl.col("source").is_null()).select("method_label", "value").iter_rows())
    dense = rows.filter(pl.col("method") == "dense")["value"].to_list()
    found = []
    for label in rows.filter(pl.col("source").is_not_null())["method_label"].unique().sort():
        found += [(label, "dense", value) for value in dense[:1]]
        found += [(label, name, free[name]) for name in [controls.get(label, "")] if name in free]
    return pl.DataFrame(found, {"method_label": pl.String, "name": pl.String, "value": pl.Float64}, orient="row")
