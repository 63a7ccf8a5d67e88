"""Reliability of the measures of one model as rows of a table."""

from __future__ import annotations

import numpy as np
import polars as pl

from analysis.estimates.components import complete_examples
from analysis.estimates.outcomes import MEASURE_OF, Outcomes, answered
from analysis.estimates.reliability import Cuts, Halves, source_means, split_half
from analysis.measures import MEAN

WANTED = 0.8  # "good" by the usual reading of a reliability (Nunnally 1978, Psychometric Theory)
RELIABILITY_SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "method_label": pl.String,
    "measure": pl.String,
    "task": pl.String,
    "sources": pl.Int64,
    "examples": pl.Int64,
    **dict.fromkeys(["reliability", "half", "half_low", "half_high"], pl.Float64),
    "examples_needed": pl.Int64,
    "note": pl.String,
}


def reliability_rows(outcomes: Outcomes, column: str, label: str, cuts: Cuts) -> list[dict[str, object]]:
    """A row per task and one for the mean over tasks, of the trials of one method that saw calibration data.

    Trials without outcomes of a task are left out of it and of the mean, as in the components; so is an example that
    some trial lacks.
    """
    trials = outcomes.trials.with_row_index("row")
    trials = trials.filter((pl.col("method_label") == label) & pl.col("source").is_not_null())
    if trials.is_empty():
        return []
    tasks = {task: matrix[trials["row"].to_numpy()] for task, matrix in outcomes.matrices[column].items()}
    tasks = {task: m for task, m in tasks.items() if task in outcomes.tasks[column] and answered(m).any()}
    there = {task: answered(matrix) for task, matrix in tasks.items()}
    owner = np.array(trials["source"].to_list(), object)
    own = {task: _means(matrix, owner, there[task]) for task, matrix in tasks.items()}
    chosen = [(task, [means]) for task, means in own.items()]
    if len(tasks) > 1 and set(tasks) == set(outcomes.tasks[column]):
        kept = np.logical_and.reduce(list(there.values()))
        if kept.any():
            every = [own[t] if (there[t] == kept).all() else _means(m, owner, kept) for t, m in tasks.items()]
            chosen.append((MEAN, every))
    halves = Halves(cuts)
    context = {"model": outcomes.model, "parameters": trials.item(0, "parameters"), "method_label": label}
    rows: list[dict[str, object]] = []
    for task, means in chosen:
        found = split_half(means, halves)
        needed = found.needed(WANTED)
        note = ""
        if found.half is None:
            note = "unknown: it needs three sources that differ and four examples of each task"
        elif needed is None:
            note = "halves of the examples do not agree at all, so no number of examples can be named"
        row = {"measure": MEASURE_OF[column], "task": task, "sources": found.sources, "examples": found.examples}
        row |= {"reliability": found.reliability, "half": found.half, "half_low": found.low, "half_high": found.high}
        rows.append({**context, **row, "examples_needed": needed, "note": note})
    return rows


def _means(matrix: np.ndarray, owner: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The sources' means of the examples that all kept trials have; owner: the source of each trial."""
    return source_means(complete_examples(matrix if kept.all() else matrix[kept]), owner[kept].tolist())
