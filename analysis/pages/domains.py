"""Perplexity by held-out text: does the domain of the calibration text matter?"""

from __future__ import annotations

import polars as pl

from analysis.cells import baselines, domain_table
from analysis.charts.heatmaps import domain_figure
from analysis.compare import domain_match
from analysis.evidence import Evidence
from analysis.frames import Study
from analysis.measures import MEAN
from analysis.page.chart import Chart
from analysis.page.html import Figure, Section, Table
from analysis.pages.common import table

MEASURE = "perplexity_increase"


def section(evidence: Evidence) -> Section:
    study = evidence.study
    id, title = "domains", "Does the domain of the calibration text matter?"
    domains = domain_table(study, MEASURE)
    if domains.is_empty():
        return Section(id, title)
    items: list[Figure | Table] = []
    if domains["source"].n_unique() > 1:  # otherwise there is nothing to compare in a column
        caption = (
            "Rows are calibration sources, columns held-out texts that nobody calibrated on. The number is how much "
            "perplexity grew over the dense model; colour compares it with the average source on the same text, so a "
            "column is read from top to bottom."
        )
        variants = _variants(study, domains)
        items.append(Figure("figure-domains", "Calibration source by held-out text", caption, variants))
    match = evidence.match
    if match.height:
        caption = (
            "Perplexity increase over dense, %, mean over texts. Low to high: over calibration sets, on these windows; "
            "low to high new text: over the windows of each text as well."
        )
        heading = "Own domain against other domains"
        items.append(table(match, domain_match, id="domain-match", title=heading, caption=caption))
    caption = "Mean and SD over sets, n sets; advantage: points better than the average source on that text."
    heading = "Source by held-out text"
    items.append(table(domains, domain_table, MEASURE, id=id, title=heading, caption=caption, folded=True))
    return Section(id, title, items=items)


def _variants(study: Study, domains: pl.DataFrame) -> list[tuple[str, Chart]]:
    """A chart per model and method, its data-free control below."""
    variants = []
    controls = baselines(study)
    for (model, label), part in domains.group_by("model", "method_label", maintain_order=True):
        chosen = pl.col("measure") == MEASURE, pl.col("model") == model, pl.col("task") != MEAN
        control = study.main.filter(*chosen, pl.col("method_label") == controls.get(str(label), ""))
        baseline = control.select(pl.col("method_label").alias("label"), text="task", mean="value").drop_nulls()
        variants.append((f"{model} · {label}", domain_figure(part, baseline, f"{model}, {label}")))
    return sorted(variants, key=lambda variant: variant[0])
