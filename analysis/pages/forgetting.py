"""What do compressed models forget?"""

from __future__ import annotations

import polars as pl

from analysis.charts.forgetting import forgetting_figure
from analysis.evidence import Evidence
from analysis.forgetting import byte_table, confidence_table, forgetting_table
from analysis.page.html import Figure, Section, Table
from analysis.pages.common import each_model, folded_table


def section(evidence: Evidence) -> Section:
    flips = forgetting_table(evidence.study, examples=evidence.examples)
    variants = [
        (model, forgetting_figure(part, model))
        for model in each_model(evidence.study)
        if (part := flips.filter(pl.col("model") == model)).height
    ]
    items: list[Figure | Table] = []
    if variants:
        caption = (
            "Any small change turns close answers. Where it turns clear ones as well, more has gone than accuracy "
            "shows, which counts lost minus gained."
        )
        items.append(Figure("figure-forgetting", "Flips by the dense model's margin", caption, variants))
    items += folded_table(
        flips,
        forgetting_table,
        None,
        "forgetting",
        "Flipped answers by the dense model's margin",
        "Thirds of each task's examples, in % of the third, mean over trials.",
    )
    items += folded_table(
        confidence_table(evidence.study),
        confidence_table,
        None,
        "confidence",
        "Confidence, and whether it is warranted",
        "Expected calibration error, Brier score and probability of the right answer, beside the dense model's.",
    )
    items += folded_table(
        byte_table(evidence.study),
        byte_table,
        None,
        "bytes",
        "Bits per byte of texts scored whole",
        "Excess over the dense model, mean and SD over trials.",
    )
    return Section("forgetting", "What do compressed models forget?", items=items)
