"""Variance components as rows of a table, each with a note in words about what it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.checks import Limitation, listed
from analysis.estimates.components import COMPONENTS, Estimate, components_of, summarise
from analysis.estimates.outcomes import MEASURE_OF, Outcomes, answered
from analysis.measures import MEAN

SCALE = {"score": 100.0, "probability": 100.0, **dict.fromkeys(("nll", "js", "loglikelihood", "margin", "brier"), 1.0)}


@dataclass(frozen=True)
class ComponentRows:
    """Rows of a component table, and what was left out of them."""

    rows: list[dict[str, object]]
    notes: tuple[Limitation, ...] = ()


def component_rows(outcomes: Outcomes, column: str, label: str, rng: np.random.Generator) -> ComponentRows:
    """The components of one method of one model: a row per task and component, and the same for the mean over tasks,
    which of one task are its own.

    A trial without samples of a task is left out of that task and of the mean, and named. The tasks are those of the
    tables: where one of them has no samples at all, the components of the mean are unknown.
    """
    trials = outcomes.trials.with_row_index("row").filter(pl.col("method_label") == label)
    tasks = {task: matrix[trials["row"].to_numpy()] for task, matrix in outcomes.matrices[column].items()}
    tasks = {task: m for task, m in tasks.items() if task in outcomes.tasks[column] and answered(m).any()}
    if not tasks:
        return ComponentRows([])
    bare = sorted(outcomes.tasks[column] - set(tasks))
    data_free = trials["source"].null_count() == trials.height
    there = {task: answered(matrix) for task, matrix in tasks.items()}
    owner = np.array(trials["source"].to_list(), object)
    own = {task: summarise(_rows_of(m, there[task]), owner[there[task]].tolist()) for task, m in tasks.items()}
    chosen = [(task, [sums], there[task]) for task, sums in own.items()]
    if len(tasks) > 1 and not bare:
        kept = np.logical_and.reduce(list(there.values()))
        every = [
            own[task] if (there[task] == kept).all() else summarise(_rows_of(matrix, kept), owner[kept].tolist())
            for task, matrix in tasks.items()
        ]
        chosen.append((MEAN, every, kept))
    notes = []
    if bare:
        text = f"{label} on {outcomes.model} has no samples of {listed(bare)}, so components of the mean are unknown."
        notes.append(Limitation("incomplete samples", text))
    rows: list[dict[str, object]] = []
    for task, sums, kept in chosen:
        lacking = [] if kept.all() else list(trials.filter(~pl.Series(kept)).iter_rows(named=True))
        estimate = components_of(sums, owner[kept].tolist(), rng)
        gap = _gap(task, [_name(trial) for trial in lacking], estimate)
        if gap:
            text = f"{label} on {outcomes.model}, components of {task} ({MEASURE_OF[column]}): {gap}."
            notes.append(Limitation("incomplete samples", text))
        parameters = trials.item(0, "parameters")
        context = {"model": outcomes.model, "parameters": parameters, "method_label": label, "task": task}
        rows += [{**context, **row} for row in _rows(estimate, SCALE[column], gap, data_free=data_free)]
    if len(tasks) == 1 and not bare:
        rows += [{**row, "task": MEAN} for row in rows]
    return ComponentRows(rows, tuple(notes))


def _name(trial: Mapping[str, object]) -> str:
    return "the one trial" if trial["source"] is None else f"{trial['source']} {trial['set']}"


def _rows_of(matrix: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The rows that are kept, without a copy where all are."""
    return matrix if kept.all() else matrix[kept]


def _gap(task: str, lacking: Sequence[str], estimate: Estimate) -> str:
    """What the samples lack for these components, in words; empty when nothing."""
    said = []
    some = "some task" if task == MEAN else task
    if lacking:
        said.append(f"without {listed(lacking)}, which have no samples of {some}")
    if estimate.sets and not estimate.examples:
        said.append(f"unknown, because its {estimate.sets} trials share no two examples of {some}")
    return "; ".join(said)


def _rows(estimate: Estimate, scale: float, gap: str, *, data_free: bool) -> list[dict[str, object]]:
    low, high = estimate.interval()
    variance = estimate.variance.copy()
    note = [""] * len(COMPONENTS)
    if data_free and estimate.examples > 1:  # one trial whatever the data: exactly no spread over sources and sets
        low[:2] = high[:2] = variance[:2] = 0.0
        note[0] = note[1] = "zero by construction: the method sees no calibration data"
        note[2] = "with the interactions, which one trial cannot separate"
    levels = [estimate.sources, estimate.sets, estimate.examples, estimate.examples, estimate.examples]
    positive = np.maximum(variance, 0)
    total = np.nansum(positive)
    fewest, most = estimate.per_source
    rows: list[dict[str, object]] = []
    for index, component in enumerate(COMPONENTS):
        known = not np.isnan(variance[index])
        if not known and not note[index]:
            note[index] = gap or "this design cannot tell: it needs two sources and two sets of a source"
        elif gap:
            note[index] = "; ".join(filter(None, [note[index], gap]))
        if known and variance[index] < 0:
            note[index] = "negative estimate, shown as zero"
        if known and estimate.reasons[index] and not data_free:
            note[index] = "; ".join(filter(None, [note[index], estimate.reasons[index]]))
        if known and index < 2 and fewest < most:
            unbalanced = f"unbalanced: {fewest} to {most} sets per source, every source weighs alike"
            note[index] = "; ".join(filter(None, [note[index], unbalanced]))
        rows.append(
            {
                "component": component,
                "sd": float(np.sqrt(positive[index]) * scale) if known else None,
                "low": float(np.sqrt(low[index]) * scale) if not np.isnan(low[index]) else None,
                "high": float(np.sqrt(high[index]) * scale) if not np.isnan(high[index]) else None,
                "share": float(positive[index] / total) if known and total > 0 else None,
                "variance": float(variance[index] * scale**2) if known else None,
                "levels": levels[index],
                "dropped_examples": estimate.dropped,
                "note": note[index],
            }
        )
    return rows


COMPONENT_SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "method_label": pl.String,
    "task": pl.String,
    "component": pl.String,
    **dict.fromkeys(["sd", "low", "high", "share", "variance"], pl.Float64),
    "levels": pl.Int64,
    "dropped_examples": pl.Int64,
    "note": pl.String,
}
