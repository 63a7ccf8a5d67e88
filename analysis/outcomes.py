"""Per-example outcomes as matrices: one row per trial, one column per example, one matrix per task.

`samples/` holds tens of millions of rows, one file per trial. A model's trials are read a few files at a time, and as
trials of one study answer the same examples in the same order, a trial adds a row to each matrix without any join:
memory is one number per (trial, example) of one model. The hard case is trials that hold different examples; those are
matched by (task, doc_id), and an example that a trial lacks is NaN in its row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.frames import Study

EXAMPLE = ["task", "doc_id"]  # what an example is known by
BATCH = 32  # trials read at a time: opening files one by one costs ten times the reading of their rows
COLUMNS = ("correct", "nll", "js")
COLUMN_OF = {"accuracy": "correct", "perplexity": "nll", "js_divergence": "js"}  # which column a measure's examples are


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of one model's trials of the main condition, dense and data-free ones included.

    trials:   the trials that have rows in samples/, in the order of the rows; `load` names the others.
    matrices: column -> task -> float32 [trials, examples]; NaN where a trial has no outcome.
    """

    model: str
    trials: pl.DataFrame
    matrices: dict[str, dict[str, np.ndarray]]


def outcomes_by_model(study: Study, columns: Sequence[str] = COLUMNS) -> Iterator[Outcomes]:
    """One model after the other, small ones first; models without rows in samples/ are left out."""
    for (model,), part in study.trials.filter(study.in_main()).group_by("model", maintain_order=True):
        outcomes = read_outcomes(study, part, columns)
        if any(outcomes.values()):
            there = np.zeros(part.height, bool)
            for matrices in outcomes.values():
                for matrix in matrices.values():
                    there |= answered(matrix)
            kept = {c: {task: m[there] for task, m in matrices.items()} for c, matrices in outcomes.items()}
            yield Outcomes(str(model), part.filter(pl.Series(there)), kept if not there.all() else outcomes)


def answered(matrix: np.ndarray) -> np.ndarray:
    """Which rows of outcomes [trials, examples] hold any, bool [trials]."""
    return np.asarray(~np.isnan(matrix).all(axis=1))


def read_outcomes(study: Study, trials: pl.DataFrame, columns: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """column -> task -> float32 [trials, examples], rows in the order of `trials`."""
    keys: pl.DataFrame | None = None
    rows: dict[str, np.ndarray] = {}  # trial -> float32 [columns, examples of all tasks]
    strange: dict[str, pl.DataFrame] = {}  # trials that hold other examples, or the same in another order
    trial_ids = trials["trial_id"].to_list()
    for trial_id, frame in _trial_samples(study, trial_ids, columns):
        same = keys is not None and frame.select(EXAMPLE).equals(keys)
        if not same:  # the same examples as before need no second look
            frame = frame.unique(EXAMPLE, keep="first", maintain_order=True)
            keys = frame.select(EXAMPLE) if keys is None else keys
            same = frame.select(EXAMPLE).equals(keys)
        if same:
            rows[trial_id] = np.stack([frame[column].to_numpy() for column in columns])
        else:
            strange[trial_id] = frame
    if keys is None:
        return {column: {} for column in columns}
    if strange:
        keys, rows = _aligned(keys, rows, strange, columns)
    return _split(keys, [rows.get(trial_id) for trial_id in trial_ids], columns)


def _trial_samples(
    study: Study, trial_ids: Sequence[str], columns: Sequence[str]
) -> Iterator[tuple[str, pl.DataFrame]]:
    """(trial, its task, doc_id and float32 columns with NaN for null), for the trials that have rows."""
    present = study.results.keys("samples")
    own = [trial_id for trial_id in trial_ids if trial_id in present]
    shared = [trial_id for trial_id in trial_ids if trial_id not in present]  # in files of several trials, or nowhere
    values = [pl.col(column).cast(pl.Float32).fill_null(float("nan")) for column in columns]
    for batch in [*(own[start : start + BATCH] for start in range(0, len(own), BATCH)), shared]:
        if not batch:
            continue
        scan = study.results.scan_trials("samples", batch).select("trial_id", *EXAMPLE, *values)
        frame = (scan.sort("trial_id", maintain_order=True) if batch is shared else scan).collect(engine="in-memory")
        start = 0
        for length, trial_id in frame["trial_id"].rle().struct.unnest().iter_rows():
            yield trial_id, frame.slice(start, length).drop("trial_id")
            start += length


def _aligned(
    keys: pl.DataFrame, rows: dict[str, np.ndarray], strange: dict[str, pl.DataFrame], columns: Sequence[str]
) -> tuple[pl.DataFrame, dict[str, np.ndarray]]:
    """All rows over the union of all examples."""
    every = pl.concat([keys, *[frame.select(EXAMPLE) for frame in strange.values()]]).unique().sort(EXAMPLE)
    place = every.with_row_index("place")

    def spots(known: pl.DataFrame) -> np.ndarray:
        return known.join(place, on=EXAMPLE, how="left", maintain_order="left")["place"].to_numpy()

    where = spots(keys)
    aligned = {}
    for trial_id in [*rows, *strange]:
        aligned[trial_id] = np.full((len(columns), every.height), np.nan, np.float32)
        if trial_id in rows:
            aligned[trial_id][:, where] = rows[trial_id]
        else:
            frame = strange[trial_id]
            aligned[trial_id][:, spots(frame)] = np.stack([frame[column].to_numpy() for column in columns])
    return every, aligned


def _split(
    keys: pl.DataFrame, rows: Sequence[np.ndarray | None], columns: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """The rows cut into tasks; a task whose column is empty in every trial is left out."""
    blank = np.full((len(columns), keys.height), np.nan, np.float32)
    cube = np.stack([blank if row is None else row for row in rows])  # (trials, columns, examples)
    names = keys["task"].to_numpy()
    found: dict[str, dict[str, np.ndarray]] = {}
    for number, column in enumerate(columns):
        found[column] = {}
        for task in keys["task"].unique().sort():
            part = cube[:, number, names == task]
            if not np.isnan(part).all():
                found[column][task] = part
    return found
