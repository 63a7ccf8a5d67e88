"""Per-example outcomes as matrices: one row per trial, one column per example, one matrix per task.

`samples/` holds tens of millions of rows, one file per trial. A model's trials are read a few files at a time, and as
trials of one study answer the same examples in the same order, a trial adds a row to each matrix without any join:
memory is one number per (trial, example) of one model. The hard case is trials that hold different examples; those are
matched by (task, doc_id), and an example that a trial lacks is NaN in its row. Trials of an older version do not say
which metric their examples are of; those whose examples do not average to the accuracy of the tables are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from analysis.checks import Limitation
from analysis.frames import Study
from analysis.measures import ANSWERS, MEAN, OLDER_EXAMPLES, accuracy_metrics, accuracy_rows
from sweep.results import trials_in_parts

EXAMPLE = ["task", "doc_id"]  # what an example is known by
BATCH = 32  # trials read at a time: opening files one by one costs ten times the reading of their rows
MEASURE_OF = {  # column of examples -> their measure
    **{"score": "accuracy", "nll": "perplexity", "js": "js_divergence"},
    **{name: name for name in ("loglikelihood", "margin", "probability", "brier")},
}
COLUMNS = tuple(MEASURE_OF)
# Which column a measure's examples are. What a model's dense trial gave is a constant of each example, so the spread of
# a change over sources and sets, and of both with examples, is that of the value itself.
COLUMN_OF = {
    **{measure: column for column, measure in MEASURE_OF.items()},
    **{f"{name}_change": name for name in ("loglikelihood", "margin", "probability", "brier")},
}
SAME = 1e-6  # an accuracy and the mean of its examples differ by rounding alone


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of one model's trials of the main condition, dense and data-free ones included.

    trials:   the trials that have rows in samples/, in the order of the rows; `load` names the others.
    matrices: column -> task -> float32 [trials, examples]; NaN where a trial has no outcome.
    tasks:    column -> the tasks that the tables have values of, with or without outcomes here.
    notes:    what of samples/ could not be used.
    """

    model: str
    trials: pl.DataFrame
    matrices: dict[str, dict[str, np.ndarray]]
    tasks: dict[str, frozenset[str]]
    notes: tuple[Limitation, ...] = ()


def outcomes_by_model(study: Study, columns: Sequence[str] = COLUMNS) -> Iterator[Outcomes]:
    """One model after the other, small ones first; models without rows in samples/ are left out."""
    told = set(study.values["measure"])  # columns that a study does not have are not looked for in millions of rows
    samples = _Samples(study, tuple(c for c in columns if MEASURE_OF[c] not in ANSWERS or MEASURE_OF[c] in told))
    for (model,), part in study.trials.filter(study.in_main()).group_by("model", maintain_order=True):
        outcomes, unlike = samples.read(part)
        if any(outcomes.values()):
            there = np.zeros(part.height, bool)
            for matrices in outcomes.values():
                for matrix in matrices.values():
                    there |= answered(matrix)
            kept = {c: {task: m[there] for task, m in outcomes.get(c, {}).items()} for c in columns}
            tasks = {column: tabled(study, str(model), column) for column in columns}
            notes = tuple(_unlike_note(str(model), task, count) for task, count in sorted(unlike.items()))
            yield Outcomes(str(model), part.filter(pl.Series(there)), kept, tasks, notes)


def tabled(study: Study, model: str, column: str) -> frozenset[str]:
    """The tasks or texts of which the tables have a value of the measure that the column is about."""
    chosen = pl.col("model") == model, pl.col("measure") == MEASURE_OF[column], pl.col("task") != MEAN
    return frozenset(study.main.filter(*chosen).drop_nulls("value")["task"])


def _unlike_note(model: str, task: str, trials: int) -> Limitation:
    text = (
        f"{trials} trials of {model} were written by an older version, and what their samples/ say of {task} does not "
        "average to its accuracy; these examples are left out."
    )
    return Limitation("unlike examples", text)


def answered(matrix: np.ndarray) -> np.ndarray:
    """Which rows of outcomes [trials, examples] hold any, bool [trials]."""
    return np.asarray(~np.isnan(matrix).all(axis=1))


def read_outcomes(study: Study, trials: pl.DataFrame, columns: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """column -> task -> float32 [trials, examples], rows in the order of `trials`.

    A trial without a value of a task in metrics/ has no outcomes of it here.
    """
    return _Samples(study, tuple(columns)).read(trials)[0]


@dataclass(frozen=True)
class _Samples:
    """Reads columns of samples/ for any trials of a study; what metrics/ say of them is looked up once."""

    study: Study
    columns: tuple[str, ...]

    def read(self, trials: pl.DataFrame) -> tuple[dict[str, dict[str, np.ndarray]], Counter[str]]:
        """(the outcomes, in how many trials a task's examples are not those of its accuracy)."""
        keys: pl.DataFrame | None = None
        rows: dict[str, np.ndarray] = {}  # trial -> float32 [columns, examples of all tasks]
        strange: dict[str, pl.DataFrame] = {}  # trials that hold other examples, or the same in another order
        unlike: Counter[str] = Counter()
        trial_ids = trials["trial_id"].to_list()
        for trial_id, frame in self._of_trials(trial_ids):
            if trial_id in self.older:
                frame, wrong = _with_score(frame, self.older[trial_id])
                unlike.update(wrong)
            frame = frame.select(*EXAMPLE, *self.columns)
            same = keys is not None and frame.select(EXAMPLE).equals(keys)
            if not same:  # the same examples as before need no second look
                frame = frame.unique(EXAMPLE, keep="first", maintain_order=True)
                keys = frame.select(EXAMPLE) if keys is None else keys
                same = frame.select(EXAMPLE).equals(keys)
            if same:
                rows[trial_id] = np.stack([frame[column].to_numpy() for column in self.columns])
            else:
                strange[trial_id] = frame
        if keys is None:
            return {column: {} for column in self.columns}, unlike
        if strange:
            keys, rows = _aligned(keys, rows, strange, self.columns)
        self._blank_unknown(keys, rows)
        return _split(keys, [rows.get(trial_id) for trial_id in trial_ids], self.columns), unlike

    def _of_trials(self, trial_ids: Sequence[str]) -> Iterator[tuple[str, pl.DataFrame]]:
        """(trial, its task, doc_id and float32 columns with NaN for what is no finite number), for trials with rows.

        The columns that hold the examples of trials that do not record their accuracy are added where there are any.
        """
        wanted = dict.fromkeys((*self.columns, *(OLDER_EXAMPLES.values() if self.older else ())))
        number = {column: pl.col(column).cast(pl.Float32) for column in wanted}
        values = [pl.when(n.is_finite()).then(n).otherwise(float("nan")).alias(column) for column, n in number.items()]
        for part in trials_in_parts(self.study.results, "samples", trial_ids, BATCH):
            frame = part.select("trial_id", *EXAMPLE, *values).collect(engine="in-memory")
            start = 0
            for length, trial_id in frame["trial_id"].rle().struct.unnest().iter_rows():
                yield trial_id, frame.slice(start, length).drop("trial_id")
                start += length

    @cached_property
    def older(self) -> dict[str, dict[str, tuple[str, float | None]]]:
        """trial -> task -> (column of its examples, its accuracy), for trials whose `score` is not of the tables."""
        if "score" not in self.columns:
            return {}
        metrics = self.study.metrics
        tasks = metrics.filter(pl.col("kind") == "task")
        chosen = accuracy_metrics(metrics)
        wanted = pl.col("task").replace_strict(chosen, default="", return_dtype=pl.String)
        other = tasks.filter(pl.col("accuracy").is_null() | (pl.col("accuracy") != wanted))
        rows = accuracy_rows(tasks, chosen).join(other.select("trial_id").unique(), on="trial_id", how="semi")
        found: dict[str, dict[str, tuple[str, float | None]]] = {key: {} for key in other["trial_id"].unique()}
        told = rows.select("trial_id", "task", "metric", "accuracy", "value")
        for trial_id, task, metric, accuracy, value in told.iter_rows():
            column = "score" if accuracy == metric else OLDER_EXAMPLES.get(metric)
            if column is not None:
                found[trial_id][task] = column, value
        return found

    @cached_property
    def known(self) -> dict[str, dict[str, set[str]]]:
        """column -> task -> the trials that have a value of the column's measure."""
        metrics = self.study.metrics
        found = {}
        for column in self.columns:
            if column == "score":
                rows = accuracy_rows(metrics, accuracy_metrics(metrics))
            elif column in MEASURE_OF:
                rows = metrics.filter((pl.col("metric") == MEASURE_OF[column]) & (pl.col("kind") != "task"))
            else:
                continue
            trials = rows.drop_nulls("value").group_by("task").agg("trial_id")
            found[column] = {task: set(trial_ids) for task, trial_ids in trials.sort("task").iter_rows()}
        return found

    def _blank_unknown(self, keys: pl.DataFrame, rows: dict[str, np.ndarray]) -> None:
        """Outcomes become NaN where the tables lack the value of a trial, in tasks that they have values of."""
        tasks = keys["task"].to_numpy()
        for index, column in enumerate(self.columns):
            for task, trials in self.known.get(column, {}).items():
                lacking = [trial_id for trial_id in rows if trial_id not in trials]
                here = tasks == task if lacking else None
                for trial_id in lacking:
                    rows[trial_id][index, here] = np.nan


def _with_score(
    frame: pl.DataFrame, examples: Mapping[str, tuple[str, float | None]]
) -> tuple[pl.DataFrame, list[str]]:
    """(`score` from the column that holds a task's examples, the tasks whose examples do not average to its accuracy).

    `score` is NaN in those tasks, and in tasks without an accuracy.
    """
    column = pl.col("task").replace_strict({t: c for t, (c, _) in examples.items()}, default="", return_dtype=pl.String)
    score = pl.lit(float("nan"), pl.Float32)
    for name in ("score", *OLDER_EXAMPLES.values()):
        score = pl.when(column == name).then(pl.col(name)).otherwise(score)
    frame = frame.with_columns(score.alias("score"))
    means = frame.group_by("task").agg(pl.col("score").cast(pl.Float64).fill_nan(None).mean())
    said = {task: examples[task][1] for task in means.drop_nulls()["task"]}
    wrong = [
        task
        for task, mean in means.drop_nulls().iter_rows()
        if (value := said[task]) is None or abs(mean - value) > SAME
    ]
    kept = pl.when(pl.col("task").is_in(wrong)).then(float("nan")).otherwise("score")
    frame = frame.with_columns(kept.cast(pl.Float32).alias("score")) if wrong else frame
    return frame, [task for task in wrong if said[task] is not None]


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
