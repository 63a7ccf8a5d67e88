"""What the calibration sets are: how they were chosen, what describes them, what they share with the evaluation."""

from __future__ import annotations

import polars as pl

from analysis.cells import measures_of
from analysis.chosen import choice_table
from analysis.described import descriptor_correlations, descriptor_table
from analysis.evidence import Evidence
from analysis.measures import MEASURES
from analysis.page.html import Section, Table
from analysis.pages.common import table
from analysis.shared import overlap_table


def section(evidence: Evidence) -> Section:
    study = evidence.study
    text: list[str] = []
    items: list[Table] = []
    overlap = overlap_table(study)
    if overlap.height:
        text.append(_overlap_sentence(overlap))
        items.append(_overlap(overlap))
    for measure in measures_of(study):
        choices = choice_table(study, measure)
        if choices.height:
            items.append(_choices(choices, measure))
    correlations = descriptor_correlations(study)
    if correlations.height:
        text.append(_correlation_sentence(correlations))
        items.append(_correlations(correlations))
    descriptors = descriptor_table(study)
    if descriptors.height:
        heading, caption = (
            "Descriptors of the calibration sets",
            "Mean and SD over sets; docs/calibration.md has units.",
        )
        items.append(
            table(descriptors, descriptor_table, id="descriptors", title=heading, caption=caption, folded=True)
        )
    return Section("calibration", "What are the calibration sets, and does their making matter?", text, items)


def _overlap_sentence(overlap: pl.DataFrame) -> str:
    shared = overlap.filter(pl.col("texts_shared") > 0).height
    units = ", ".join(f"{n} {unit}" for unit, n in overlap.select("unit", "n").unique().sort("unit").iter_rows())
    return (
        f"Of {overlap.height} pairs of a calibration source and something that is evaluated, {shared} share text "
        f"({units} in a row)."
    )


def _overlap(overlap: pl.DataFrame) -> Table:
    caption = (
        "Sets, windows and evaluated texts that share so many words or tokens in a row; short texts are shorter than "
        "that and share nothing."
    )
    shared = overlap.filter(pl.col("texts_shared") > 0)
    return table(
        overlap,
        overlap_table,
        id="overlap",
        title="Calibration text in the evaluation",
        caption=caption,
        shown=shared if shared.height else None,
        folded=not shared.height,
    )


def _choices(choices: pl.DataFrame, measure: str) -> Table:
    caption = (
        "Each level against the reference of its axis on the same sets; positive: better. 95 % intervals over sets, p "
        "corrected by Holm within a model and method; seconds to select a set."
    )
    heading = f"{MEASURES[measure].title}: does it matter how windows are chosen?"
    return table(choices, choice_table, measure, id=f"choices-{measure}", title=heading, caption=caption)


def _correlation_sentence(correlations: pl.DataFrame) -> str:
    known = correlations.drop_nulls("spearman_low")
    clear = known.filter((pl.col("spearman_low") > 0) | (pl.col("spearman_high") < 0)).height
    return (
        f"Of {known.height} correlations of a descriptor with an outcome that have an interval, {clear} exclude zero; "
        "one in twenty does by chance."
    )


def _correlations(correlations: pl.DataFrame) -> Table:
    return table(
        correlations,
        descriptor_correlations,
        id="descriptor-correlations",
        title="Do descriptors tell what a set does?",
        caption="Rank correlation with the outcome, +1: the larger the descriptor, the better. 95 % intervals know "
        "which trials belong together.",
        folded=True,
    )
