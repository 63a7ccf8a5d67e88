"""Every set as a dot, per measure; the published table and the ranges."""

from __future__ import annotations

import polars as pl

from analysis.charts.spreads import spread_figure
from analysis.evidence import Evidence
from analysis.findings import mean_rows
from analysis.frames import Study
from analysis.measures import MEASURES
from analysis.page.chart import Chart
from analysis.page.html import Figure, Section, Table
from analysis.pages.common import each_model, table
from analysis.tables import baselines, measures_of, over_sets, range_table, source_table, wide_table


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
        items.append(
            table(
                source_table(study, measure),
                source_table,
                measure,
                id=f"source-{measure}",
                title=f"{info.title} by source",
                caption="Mean ± SD over calibration sets, mean over tasks or texts; "
                f"{info.better}. Without ±: one trial.",
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


def _no_data_first(wide: pl.DataFrame) -> pl.DataFrame:
    """The control beside the method, where a wide table is read first."""
    first = [name for name in ("model", "method", "no data") if name in wide.columns]
    return wide.select(*first, pl.exclude(first))


def _variants(study: Study, measure: str) -> list[tuple[str, Chart]]:
    """A chart per model."""
    rows = mean_rows(study, measure)
    variants = []
    for model in each_model(study):
        values = _rows_with_controls(study, rows.filter(pl.col("model") == model))
        if values.height:
            summary = over_sets(values, ["method_label", "row"])
            variants.append((model, spread_figure(values, summary, measure, model)))
    return variants


def _rows_with_controls(study: Study, rows: pl.DataFrame) -> pl.DataFrame:
    """Calibrated rows with `row` = source, and under each method its data-free control as `no data: RTN 3-bit`."""
    controls = baselines(study)
    calibrated = rows.filter(pl.col("source").is_not_null()).with_columns(pl.col("source").alias("row"))
    parts = [calibrated]
    for label in calibrated["method_label"].unique().sort():
        control = rows.filter(pl.col("method_label") == controls.get(label, ""))
        if control.height:
            name = pl.lit(f"no data: {controls[label]}")
            parts.append(control.with_columns(name.alias("row"), pl.lit(label).alias("method_label")))
    return pl.concat(parts).drop_nulls("value")
