"""Every condition of calibration sets when the study varies them, with curves over the number of windows."""

from __future__ import annotations

import html

import polars as pl

from analysis.cells import measures_of, size_table
from analysis.charts.curves import size_figure
from analysis.evidence import Evidence
from analysis.measures import MEASURES
from analysis.page.chart import Chart
from analysis.page.html import Figure, Section, Table
from analysis.pages.common import table


def section(evidence: Evidence) -> Section:
    study = evidence.study
    id, title = "sizes", "How large, and how made?"
    counts = study.trials.drop_nulls("condition").group_by("condition").len().sort("condition")
    if counts.height < 2:
        return Section(id, title)
    items: list[Figure | Table] = []
    for measure in measures_of(study):
        sizes = size_table(study, measure)
        variants = _variants(sizes, measure)
        if variants:
            heading = f"{MEASURES[measure].title} against calibration size"
            caption = "More windows cost time and memory; see where it stops paying."
            items.append(Figure(f"figure-sizes-{measure}", heading, caption, variants))
        heading = f"{MEASURES[measure].title} by size and condition of the calibration set"
        items.append(
            table(
                sizes,
                size_table,
                measure,
                id=f"sizes-{measure}",
                title=heading,
                caption="Mean and SD over sets.",
                folded=True,
            )
        )
    named = "; ".join(f"{html.escape(str(name))} ({count} trials)" for name, count in counts.iter_rows())
    text = [
        f"The study varies calibration sets: {named}. Every other section is about "
        f"<b>{html.escape(str(study.condition))}</b>."
    ]
    return Section(id, title, text, items)


def _variants(sizes: pl.DataFrame, measure: str) -> list[tuple[str, Chart]]:
    """A chart per model, length and policy that has several sizes."""
    variants = []
    with_policy = sizes.with_columns(pl.col("condition").str.replace(r"^\S+ ", "").alias("policy"))
    curves = with_policy.group_by(["model", "seqlen", "policy"], maintain_order=True)
    for (model, seqlen, policy), part in curves:
        if part["nsamples"].n_unique() > 1:
            where = f"{model}, {seqlen} tokens a window"
            if with_policy["policy"].n_unique() > 1:
                where += f", {policy}"
            variants.append((where, size_figure(part, measure, where)))
    return variants
