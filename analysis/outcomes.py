"""Per-example outcomes as matrices: one row per trial, one column per example, one matrix per task.

`samples/` holds tens of millions of rows, one file per trial. A model's trials are read one file at a time, and as
trials of one study answer the same examples in the same order, a file adds a row to each matrix without any join:
memory is one number per (trial, example) of one model. The hard case is trials that hold different examples; those are
matched by (task, doc_id), and an example that a trial lacks is NaN in its row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from analysis.frames import Study

COLUMNS = ("correct", "nll", "js")
COLUMN_OF = {"accuracy": "correct", "perplexity": "nll", "js_divergence": "js"}  # which column a measure's examples are


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of one model's trials of the main condition, dense and data-free ones included.

    trials:   the trials, in the order of the rows.
    matrices: column -> task -> float32 [trials, examples]; NaN where a trial has no outcome.
    """

    model: str
    trials: pl.DataFrame
    matrices: dict[str, dict[str, np.ndarray]]


def outcomes_by_model(study: Study, columns: Sequence[str] = COLUMNS) -> Iterator[Outcomes]:
    """One model after the other, small ones first; models without rows in samples/ are left out."""
    in_main = pl.col("condition").is_null() | (pl.col("condition") == study.condition)
    trials = study.trials.filter(in_main)
    for (model,), part in trials.group_by("model", maintain_order=True):
        outcomes = read_outcomes(study, part, columns)
        if any(outcomes.values()):
            yield Outcomes(str(model), part, outcomes)


def read_outcomes(study: Study, trials: pl.DataFrame, columns: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """column -> task -> float32 [trials, examples], rows in the order of `trials`."""
    keys: pl.DataFrame | None = None
    rows: list[np.ndarray | None] = []  # each float32 [columns, examples of all tasks]
    strange: dict[int, pl.DataFrame] = {}
    for index, (trial_keys, values, frame) in enumerate(_trial_samples(study, trials["trial_id"].to_list(), columns)):
        if frame.is_empty():
            rows.append(None)
            continue
        keys = trial_keys if keys is None else keys
        same = trial_keys is keys or trial_keys.equals(keys)
        rows.append(values if same else None)
        if not same:
            strange[index] = frame
    if keys is None:
        return {column: {} for column in columns}
    if strange:
        keys, rows = _aligned(keys, rows, strange, columns)
    return _split(keys, rows, columns)


def _trial_samples(
    study: Study, trial_ids: list[str], columns: Sequence[str]
) -> Iterator[tuple[pl.DataFrame, np.ndarray, pl.DataFrame]]:
    """Per trial: its (task, doc_id), its values float32 [columns, examples], and both as one frame."""
    wanted = ["task", "doc_id", *columns]
    own = {path.rpartition("/")[2].removesuffix(".parquet"): path for path in study.results.files("samples")}
    others = [trial_id for trial_id in trial_ids if trial_id not in own]
    rest = study.results.scan("samples").filter(pl.col("trial_id").is_in(others)) if others and own else None
    loose = None if rest is None else rest.select("trial_id", *wanted).collect(engine="in-memory")
    empty = pl.DataFrame(schema={"task": pl.String, "doc_id": pl.Int64, **dict.fromkeys(columns, pl.Float32)})
    known: pl.DataFrame | None = None
    for trial_id in trial_ids:
        if trial_id in own:
            table = pq.read_table(own[trial_id], columns=wanted, filesystem=study.results.filesystem)
            frame = pl.DataFrame(table)
        else:
            frame = empty if loose is None else loose.filter(pl.col("trial_id") == trial_id).drop("trial_id")
        keys = frame.select("task", "doc_id")
        if known is None or not keys.equals(known):  # the same examples as before need no second look
            frame = frame.unique(["task", "doc_id"], keep="first", maintain_order=True)
            keys = frame.select("task", "doc_id")
        known = keys if known is None and keys.height else known
        numbers = frame.select(pl.col(column).cast(pl.Float32) for column in columns)
        values = np.stack([numbers[column].fill_null(float("nan")).to_numpy() for column in columns])
        yield keys, values, frame


def _aligned(
    keys: pl.DataFrame, rows: list[np.ndarray | None], strange: dict[int, pl.DataFrame], columns: Sequence[str]
) -> tuple[pl.DataFrame, list[np.ndarray | None]]:
    """All rows over the union of all examples."""
    every = pl.concat([keys, *[f.select("task", "doc_id") for f in strange.values()]]).unique().sort("task", "doc_id")
    place = every.with_row_index("place")
    where = keys.join(place, on=["task", "doc_id"], how="left", maintain_order="left")["place"].to_numpy()
    aligned: list[np.ndarray | None] = []
    for index, row in enumerate(rows):
        frame = strange.get(index)
        if row is None and frame is None:
            aligned.append(None)
            continue
        full = np.full((len(columns), every.height), np.nan, np.float32)
        if frame is None:
            full[:, where] = row
        else:
            spots = frame.join(place, on=["task", "doc_id"], how="left", maintain_order="left")["place"].to_numpy()
            for number, column in enumerate(columns):
                full[number, spots] = frame[column].cast(pl.Float32).fill_null(float("nan")).to_numpy()
        aligned.append(full)
    return every, aligned


def _split(
    keys: pl.DataFrame, rows: list[np.ndarray | None], columns: Sequence[str]
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
