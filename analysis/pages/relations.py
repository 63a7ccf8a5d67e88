"""Cheaper metrics against accuracy."""

from __future__ import annotations

import polars as pl

from analysis.cells import relation_table
from analysis.charts.relations import relation_figure
from analysis.correlation import cheap_metrics, correlation_table
from analysis.evidence import Evidence
from analysis.measures import MEASURES
from analysis.page.chart import Chart
from analysis.page.html import Figure, Section, Table
from analysis.pages.common import each_model, table


def section(evidence: Evidence) -> Section:
    relation = relation_table(evidence.study)
    items: list[Figure | Table] = []
    for metric in cheap_metrics(relation) if "accuracy" in relation.columns else []:
        variants = _variants(evidence, relation, metric)
        if variants:
            title = f"Accuracy against {MEASURES[metric].title[0].lower() + MEASURES[metric].title[1:]}"
            items.append(Figure(f"figure-relation-{metric}", title, "One mark per trial.", variants))
    if items:
        items.append(
            table(
                evidence.correlations,
                correlation_table,
                id="correlations",
                title="Rank correlations",
                caption="Rank correlation with mean accuracy; +1: the same order. 95 % intervals know which trials "
                "belong together.",
            )
        )
        items.append(
            table(
                relation,
                relation_table,
                id="relation",
                title="Metrics per trial",
                caption="Means over tasks or texts.",
                folded=True,
            )
        )
    return Section("relations", "Do cheap metrics predict the expensive one?", items=items)


def _variants(evidence: Evidence, relation: pl.DataFrame, metric: str) -> list[tuple[str, Chart]]:
    """A chart per model with three trials or more."""
    variants = []
    for model in each_model(evidence.study):
        part = relation.filter(pl.col("model") == model).drop_nulls([metric, "accuracy"])
        if part.height > 2:
            note = _agreement_note(evidence.correlations, model, metric)
            variants.append((model, relation_figure(part, metric, model, note)))
    return variants


def _agreement_note(correlations: pl.DataFrame, model: str, metric: str) -> str:
    """Spearman's correlation at the three levels, for a subtitle."""
    rows = correlations.filter((pl.col("model") == model) & (pl.col("metric") == metric)).drop_nulls("spearman_low")
    parts = [
        f"{r['level']} {r['spearman']:+.2f} ({r['spearman_low']:+.2f} to {r['spearman_high']:+.2f})"
        for r in rows.iter_rows(named=True)
    ]
    return f"Spearman, +1 is perfect: {'; '.join(parts)}." if parts else ""
