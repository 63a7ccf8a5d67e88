"""How much of the spread is source, draw, test."""

from __future__ import annotations

import html

import polars as pl

from analysis.charts.components import component_figure
from analysis.evidence import Evidence
from analysis.measures import MEAN
from analysis.page.html import Figure, Section, Table, readable
from analysis.pages.common import each_model, table
from analysis.variance import component_table, repeat_table

CAPTION = (
    "Source: which text. Set: the luck of the draw within a source. Test examples: which questions were asked; it is "
    "the same for every trial and cancels when two of them are compared. The interactions do not cancel: other "
    "questions would favour other sources. Data-free methods are the control: source and set are exactly zero."
)


def section(evidence: Evidence) -> Section:
    items: list[Figure | Table] = []
    items += _of_measure(evidence, "accuracy", "Accuracy", "points")
    items += _of_measure(evidence, "perplexity", "Logarithm of perplexity", "nats per token")
    repeats = repeat_table(evidence.study)
    if repeats.height:
        caption = "SD over trials that share every factor."
        items.append(table(repeats, repeat_table, id="repeats", title="Repeat noise", caption=caption))
    notes = [f"<b>{html.escape(n.subject)}.</b> {html.escape(n.text)}" for n in evidence.examples.limitations]
    return Section("components", "What is luck, and whose?", items=items, notes=notes)


def _of_measure(evidence: Evidence, measure: str, title: str, unit: str) -> list[Figure | Table]:
    frame = evidence.components(measure)
    if frame.is_empty():
        return []
    items: list[Figure | Table] = []
    overall = frame.filter(pl.col("task") == (MEAN if MEAN in set(frame["task"]) else frame.item(0, "task")))
    overall = overall.filter(pl.col("sd").is_not_null())
    variants = [
        (model, component_figure(part, f"{measure}, {model}", unit))
        for model in each_model(evidence.study)
        if (part := overall.filter(pl.col("model") == model)).height
    ]
    if variants:
        items.append(Figure(f"figure-components-{measure}", f"{title}: variance components", CAPTION, variants))
    shown = overall.drop("variance", "task")
    if shown["dropped_examples"].sum() == 0:
        shown = shown.drop("dropped_examples")
    items.append(
        table(
            frame,
            component_table,
            measure,
            id=f"components-{measure}",
            title=f"{title}: components of the mean, with 95 % intervals",
            caption=f"SD in {unit} that each component adds to the score. The download holds every task.",
            shown=readable(shown),
        )
    )
    return items
