"""Which measure can tell the sources apart, and how many examples the others would need."""

from __future__ import annotations

import polars as pl

from analysis.cells import worth_table
from analysis.charts.reliability import reliability_figure
from analysis.estimates.reliability_rows import WANTED
from analysis.evidence import Evidence
from analysis.measures import MEAN, TASK_MEASURES
from analysis.page.html import Figure, Section, Table, readable
from analysis.pages.common import table
from analysis.reliability import lead_table, reliability_table

CAPTION = (
    "The examples are cut in two halves, and each orders the sources. 0: the halves agree no better than by chance, so "
    "nothing that this measure says of sources would be found again with other examples."
)


def section(evidence: Evidence) -> Section:
    id, title = "telling", "Which measure can tell the sources apart?"
    frame = evidence.examples.reliability
    known = frame.filter(pl.col("measure").is_in(TASK_MEASURES)).drop_nulls("reliability")
    if known.is_empty():
        return Section(id, title)
    overall = known.filter(pl.col("task") == (MEAN if MEAN in set(known["task"]) else known.item(0, "task")))
    query = "from analysis.reliability import lead_table, reliability_table\nlead_table(reliability_table(study))"
    caption = (
        f"Median over models and methods. Needed: examples per trial for a reliability of {WANTED:g}, empty where the "
        "halves do not agree in half of the pairs of model and method or more."
    )
    lead = lead_table(frame)
    items: list[Figure | Table] = [
        Figure("figure-reliability", title, CAPTION, [("all models", reliability_figure(overall, WANTED))]),
        Table("table-lead", "Measures of tasks, the most reliable first", caption, lead, query, shown=readable(lead)),
        table(
            frame,
            reliability_table,
            id="reliability",
            title="Reliability per model, method, measure and task",
            caption="Half: Spearman's correlation between the orders of two halves, and the middle 95 % of 200 cuts.",
            shown=readable(frame),
            folded=True,
        ),
    ]
    worth = worth_table(evidence.study)
    caption = (
        "Mean ± SD over all sets of all sources. In %: accuracy, probability and calibration error; in nats: "
        "log-likelihood and margin."
    )
    heading = "What answers are worth, the dense model beside the others"
    items.append(table(worth, worth_table, id="worth", title=heading, caption=caption, shown=readable(worth)))
    return Section(id, title, items=items)
