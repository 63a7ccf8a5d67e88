"""Reliability of the measures of one model as rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.estimates.components import complete_examples
from analysis.estimates.outcomes import MEASURE_OF, Outcomes, answered
from analysis.estimates.reliability import Cuts, Halves, source_means, split_halves
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


@dataclass(frozen=True)
class _Case:
    """One measure of one method: `context` of its rows, and per row its task and the means of the sources; `alone`:
    whether its one task is all that there is, so that the mean over tasks is the same."""

    context: dict[str, object]
    rows: list[tuple[str, list[np.ndarray]]]
    alone: bool = False

    @property
    def shape(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """Cases of one shape are cut alike, and together."""
        return tuple(tuple(means.shape for means in every) for _, every in self.rows)


def reliability_rows(outcomes: Outcomes, labels: Sequence[str], cuts: Cuts) -> list[dict[str, object]]:
    """Per measure and method a row per task and one for the mean over tasks, of the trials that saw calibration data.

    Trials without outcomes of a task are left out of it and of the mean, as in the components; so is an example that
    some trial lacks.
    """
    cases = [_case(outcomes, column, label) for column in outcomes.matrices for label in labels]
    alike: dict[object, list[_Case]] = {}
    for case in cases:
        alike.setdefault(case.shape, []).append(case)
    return [row for together in alike.values() for row in _rows(together, Halves(cuts))]


def _case(outcomes: Outcomes, column: str, label: str) -> _Case:
    trials = outcomes.trials.with_row_index("row")
    trials = trials.filter((pl.col("method_label") == label) & pl.col("source").is_not_null())
    if trials.is_empty():
        return _Case({}, [])
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
    context = {"model": outcomes.model, "parameters": trials.item(0, "parameters"), "method_label": label}
    return _Case(
        {**context, "measure": MEASURE_OF[column]}, chosen, set(tasks) == outcomes.tasks[column] and len(own) == 1
    )


def _rows(cases: Sequence[_Case], halves: Halves) -> list[dict[str, object]]:
    """The rows of cases of one shape."""
    rows: list[dict[str, object]] = []
    for place in range(len(cases[0].rows)):
        for case, found in zip(cases, split_halves([case.rows[place][1] for case in cases], halves), strict=True):
            needed = found.needed(WANTED)
            note = ""
            if found.half is None:
                note = "unknown: it needs three sources and four examples of each task"
            elif needed is None:
                note = "halves of the examples do not agree at all, so no number of examples can be named"
            row = {"task": case.rows[place][0], "sources": found.sources, "examples": found.examples}
            row |= {"reliability": found.reliability, "half": found.half, "half_low": found.low}
            row |= {"half_high": found.high, "examples_needed": needed, "note": note}
            rows += [{**case.context, **row, "task": task} for task in (row["task"], MEAN)[: 1 + case.alone]]
    return rows


def _means(matrix: np.ndarray, owner: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The sources' means of the examples that all kept trials have; owner: the source of each trial."""
    return source_means(complete_examples(matrix if kept.all() else matrix[kept]), owner[kept].tolist())
