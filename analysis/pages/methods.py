"""Methods on the same calibration sets, flips, sensitivity against size."""

from __future__ import annotations

from analysis.cells import measures_of
from analysis.charts.sensitivity import sensitivity_figure
from analysis.compare import flip_table, mcnemar_table, method_pairs
from analysis.evidence import Evidence
from analysis.frames import Study
from analysis.measures import MEASURES
from analysis.page.html import Figure, Section, Table
from analysis.page.marks import inside
from analysis.pages.common import folded_table
from analysis.ranking import sensitivity_table, trend_table


def section(evidence: Evidence) -> Section:
    items: list[Figure | Table] = []
    for measure in measures_of(evidence.study, evidence.answered):
        items += _figure(evidence.study, measure)
        items += _tables(evidence, measure)
    items += folded_table(
        flip_table(evidence.study, examples=evidence.examples),
        flip_table,
        None,
        "flips",
        "Answers that compression flipped",
        "In % of the examples, mean over sets; accuracy shows only lost minus gained.",
    )
    items += folded_table(
        mcnemar_table(evidence.study, examples=evidence.examples),
        mcnemar_table,
        None,
        "mcnemar",
        "McNemar's test between methods",
        "On each calibration set that both saw; exact, two-sided.",
    )
    return Section("methods", "Does the calibration data decide which method wins?", items=items)


def _figure(study: Study, measure: str) -> list[Figure]:
    """SD over draws against model size, where the study has several sizes."""
    spreads = sensitivity_table(study, measure)
    if spreads["parameters"].n_unique() < 2:
        return []
    info = MEASURES[measure]
    unit = "points" if info.unit == "%" else info.unit or "perplexity"
    chart = sensitivity_figure(spreads, f"Sensitivity to the draw against model size, {inside(info.title)}", unit)
    caption = "Do larger models care less about which text they are calibrated on?"
    title = f"{info.title}: sensitivity and model size"
    return [Figure(f"figure-sensitivity-{measure}", title, caption, [("all models", chart)])]


def _tables(evidence: Evidence, measure: str) -> list[Table]:
    study = evidence.study
    pairs = folded_table(
        method_pairs(study, measure, examples=evidence.examples),
        method_pairs,
        measure,
        "methods",
        "every pair of methods, paired by calibration set",
        "Reversed: share of sets on which the better method is the worse one. Intervals are for other sets of "
        "these sources; A wins: on one new set of a new source.",
    )
    sensitivity = folded_table(
        sensitivity_table(study, measure),
        sensitivity_table,
        measure,
        "sensitivity",
        "SD over draws",
        "Mean over sources of the variance; its 95 % interval; typical: without sets that are far off.",
    )
    trend = folded_table(
        trend_table(study, measure),
        trend_table,
        measure,
        "trend",
        "sensitivity per tenfold parameters",
        "Below 1: larger models feel the draw less. An interval needs three models.",
    )
    return [*pairs, *sensitivity, *trend]
