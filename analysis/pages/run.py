"""What was run: counts, and every limitation."""

from __future__ import annotations

import html

import polars as pl

from analysis.cells import trial_counts
from analysis.evidence import Evidence
from analysis.page.html import Section
from analysis.page.marks import span
from analysis.pages.common import table


def section(evidence: Evidence) -> Section:
    study = evidence.study
    trials = study.trials
    calibrated = trials.filter(pl.col("source").is_not_null())
    per_cell = calibrated.group_by("model", "method_label", "source", "condition").len()["len"]
    facts = [
        (f"{trials.height:,}", "trials"),
        (f"{study.failed.height:,}", "failed"),
        (f"{trials['model'].n_unique()}", "models"),
        (f"{trials.filter(pl.col('method') != 'dense')['method_label'].n_unique()}", "methods"),
        (f"{calibrated['source'].n_unique()}", "sources"),
        (span(per_cell), "sets per source"),
        ((study.condition or "none").partition(" ")[0], "windows × tokens"),
    ]
    items = "".join(f"<li><b>{html.escape(value)}</b>{label}</li>" for value, label in facts)
    text = [f'</p><ul class="facts">{items}</ul><p>']
    if study.limitations:
        text.append("What the numbers do not cover:")
    else:
        text.append("Nothing was left out: every trial succeeded and every cell of the grid has its result.")
    notes = [f"<b>{html.escape(note.subject)}.</b> {html.escape(note.text)}" for note in study.limitations]
    counts = table(
        trial_counts(study),
        trial_counts,
        id="trials",
        title="Trials",
        caption="Trials per model and method; data-free methods and the dense model have one each.",
        folded=True,
    )
    return Section("run", "What was run", text, [counts], notes)
