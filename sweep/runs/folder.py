"""What may stand in one results folder: numbers that were made from the same evaluation, requests and models.

Ids say what a trial was asked to be; the data sets and models behind the names of a hub can change all the same. What
was found under a name is therefore recorded in every row of `trials/`, and a folder takes no second version of it.
Rows of earlier versions of this package do not say, and are let through.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from calib.settings import SettingsError, as_dict, shown
from calib.yamltext import read_yaml
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.suite import EvaluationData
from sweep.models import ModelRef
from sweep.plan import Trial
from sweep.results import TABLES, Results
from sweep.runs.schedule import Job
from sweep.trial import describe

OURS = frozenset({*TABLES, "started", "study.yaml", "lease.json"})  # one is in every folder that a launch began
MAX_VALUES = 1_000_000  # in a resolved study, which has every setting of every method written out
_FACTORS = ("model", "settings", "source", "set", "seqlen", "sampling", "seed")
_POLICIES = ("select", "distinct", "document_bos", "first_token", "exclude_overlap", "part", "length_weights")
CELL = (*_FACTORS, "planned_nsamples", "separator", "add_bos", "calibration_seed", *_POLICIES)
FIRST_CELL = (*_FACTORS, "nsamples")  # what rows of the first version state
PLACES = ("task_path", "allow_code", "descriptors")  # settings that change no number and may change freely


def check_folder(store: Results) -> None:
    """Refuse a local folder that holds something else than results. Raises SettingsError."""
    path = Path(store.path)
    if path.exists() and not path.is_dir():
        raise SettingsError(f"--results {store.root}: cannot be used: it is a file; choose a folder")
    if not path.is_dir():
        return
    names = [entry.name for entry in itertools.islice(path.iterdir(), 1000) if not entry.name.startswith(".")]
    if names and not OURS & set(names):
        raise SettingsError(
            f"--results {store.root}: holds no results but other files (such as {shown(min(names))}); choose an empty "
            "folder or a new one"
        )


def read_study(store: Results) -> Mapping[str, Any] | None:
    """The study file in the folder, which names its study; None when there is none.

    Raises SettingsError when it is something else.
    """
    remedy = "choose another folder, or put the study file back that was there"
    try:
        text = store.read_text("study.yaml")
        document = read_yaml(text, MAX_VALUES) if text is not None else None
    except (SettingsError, UnicodeDecodeError) as error:
        raise SettingsError(f"--results {store.root}: study.yaml there cannot be read: {error}; {remedy}") from None
    if text is not None and not (isinstance(document, Mapping) and isinstance(document.get("study"), str)):
        raise SettingsError(f"--results {store.root}: study.yaml there is no study file, it names no study; {remedy}")
    return document if isinstance(document, Mapping) else None


def check_evaluation(trials: Sequence[Trial], before: pl.DataFrame, store: Results) -> None:
    """Refuse trials that are evaluated otherwise than those in the folder. Raises SettingsError."""
    ids = {trial.evaluation_id for trial in trials}
    others = before.filter(pl.col("evaluation_id").is_not_null() & ~pl.col("evaluation_id").is_in(list(ids)))
    if others.is_empty() or not trials:
        return
    difference = _difference(read_study(store), trials[0].evaluation)
    raise SettingsError(
        f"--results {store.root}: {others.height} trials there have another evaluation: {difference}; "
        "give it as it was, or choose another folder"
    )


def check_stale(trials: Sequence[Trial], before: pl.DataFrame, root: str) -> None:
    """Refuse to put new numbers beside old ones of the same cell: the tables would mix them. Raises SettingsError."""
    if found := stale(trials, before):
        row = found[0]
        data = f", {row['source']} set {row['set']}" if row["source"] is not None else ""
        raise SettingsError(
            f"--results {root}: {len(found)} trials there are trials of this study made with another evaluation, other "
            f"files or other code (such as {row['model']}, {row['method_label']}{data}); "
            "choose another folder, or delete this one"
        )


def stale(trials: Sequence[Trial], before: pl.DataFrame) -> list[Mapping[str, Any]]:
    """The rows that stand where one of these trials would, under another id: made with other tasks, model files, text
    or code. A place in the tables (a cell) is a trial by its factors."""
    if before.is_empty():
        return []
    planned = {trial.id for trial in trials}
    cells = {_cell(describe(trial), names) for trial in trials for names in (FIRST_CELL, CELL)}
    return [
        row
        for row in before.iter_rows(named=True)
        if row["trial_id"] not in planned and _cell(row, _cell_names(row)) in cells
    ]


def check_dtypes(jobs: Sequence[Job], before: pl.DataFrame, device: str) -> None:
    """Refuse to mix dtypes in one folder: `auto` is float32 on a CPU and the checkpoint's dtype on a GPU."""
    done = before.filter((pl.col("status") == "ok") & pl.col("dtype").is_not_null())
    known = set(done.select("model", "dtype").unique().iter_rows())
    for job in jobs:
        model = job.trial.model
        expected = model.expected_dtype(device)
        others = sorted(dtype for name, dtype in known if name == model.name and dtype != expected)
        if model.dtype == "auto" and expected and others:
            raise SettingsError(
                f"models: {model.name} would run in {expected} on this machine ({device}), but the results there "
                f"are in {others[0]}; give the model's `dtype` in the study, or choose another --results folder"
            )


def check_commit(store: Results, model: ModelRef, commit: str | None) -> None:
    """Refuse a hub model of another commit than the trials in the folder have. Raises SettingsError."""
    if commit is None:
        return
    others = _others(store, ("model_id", model.fingerprint), "model_commit", commit)
    if others:
        raise SettingsError(
            f"models: {model.name}: {model.fingerprint} is the commit {commit} now, and was {others[0]} for the trials "
            f"in {store.root}; choose another --results folder (a `revision` that is a commit never changes)"
        )


def check_requests(store: Results, data: EvaluationData) -> None:
    """Refuse requests that differ from those of the trials in the folder. Raises SettingsError."""
    others = _others(store, ("requests_id", data.requests_id), "requests_hash", data.requests_hash)
    if others:
        raise SettingsError(
            f"evaluation: the trials in {store.root} were asked something else than the same settings give now "
            f"(requests {others[0]}, now {data.requests_hash}): a data set on the hub, a held-out text or a task's "
            "code has changed; give back the earlier data, or choose another --results folder"
        )


def _others(store: Results, where: tuple[str, str | None], column: str, value: str) -> list[str]:
    """What rows of finished trials state in `column` other than `value`; those that state nothing are let through."""
    rows = store.read("trials").filter(pl.col("status") == "ok", pl.col(where[0]) == where[1])
    stated = rows.get_column(column).drop_nulls().unique().sort()
    return [other for other in stated.to_list() if other != value]


def _cell_names(row: Mapping[str, Any]) -> Sequence[str]:
    """The factors that a row states: one with calibration data and no separator is of the first version."""
    return FIRST_CELL if row["source"] is not None and row["separator"] is None else CELL


def _cell(row: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    """What a row does not state was not used then, or had its default; a data-free trial has none of it."""
    usual = {"document_bos": False, "first_token": "bos" if row["add_bos"] else None}
    return tuple(usual.get(name) if (stated := row.get(name)) is None else stated for name in names)


def _difference(document: Mapping[str, Any] | None, now: EvaluationSettings) -> str:
    """`limit was 6 and is 3`, from the study file in the folder."""
    earlier = document.get("evaluation") if document is not None else None
    if not isinstance(earlier, Mapping):
        return "which settings they have is not known, because study.yaml is missing"
    current: dict[str, Any] = as_dict(now)
    keys = [key for key in current if key not in PLACES and current[key] != earlier.get(key)]
    if not keys:
        return "its settings are the same, but a task's files, a held-out text or this package has changed"
    return ", ".join(f"{key} was {_short(earlier.get(key))} and is {_short(current[key])}" for key in keys)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
