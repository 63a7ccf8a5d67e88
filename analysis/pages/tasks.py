"""Which task feels the draw?"""

from __future__ import annotations

import polars as pl

from analysis.cells import task_spread_table, task_table
from analysis.charts.spreads import task_spread_figure
from analysis.evidence import Evidence
from analysis.measures import MEAN
from analysis.page.html import Figure, Section, Table
from analysis.pages.common import each_model, table


def section(evidence: Evidence) -> Section:
    study = evidence.study
    id, title = "tasks", "Which tasks feel it?"
    rows = study.calibrated.filter((pl.col("measure") == "accuracy") & (pl.col("task") != MEAN)).drop_nulls("value")
    if rows.is_empty():
        return Section(id, title)
    variants = [
        (model, task_spread_figure(part, "accuracy", model))
        for model in each_model(study)
        if (part := rows.filter(pl.col("model") == model)).height
    ]
    items: list[Figure | Table] = [
        Figure("figure-tasks", "Per-task spread", "A mean over tasks hides tasks that move by many points.", variants),
        table(
            task_spread_table(study),
            task_spread_table,
            id="task-spread",
            title="Range per task",
            caption="Over all sets of all sources, accuracy in %.",
            folded=True,
        ),
        table(
            task_table(study),
            task_table,
            id="tasks",
            title="Accuracy per task and source",
            caption="Mean and SD over sets, %.",
            folded=True,
        ),
    ]
    return Section(id, title, items=items)
