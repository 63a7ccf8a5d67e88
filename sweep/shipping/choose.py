"""Which trial of a results folder is meant: by its id, or by model, method, source and set.

The row says what was measured, the study file beside it how; together they give the trial again. The hard case is a
folder whose study can no longer make the trial, since its model or its data changed: ids differ then, and it is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl

from calib.settings import SettingsError, shown, suggestion
from sweep.config import Study, parse_study
from sweep.plan import Trial, expand
from sweep.results import Results
from sweep.runs.folder import read_study
from sweep.trial import describe

SHOWN = 6  # candidates that are named
LONG_ID = 8  # digits of an id that are enough
NAMING = ("model", "method_label", "source", "set")
AS_THEN = "not those of then; put them back, or measure anew"
WHAT_CHANGES = {
    "model_id": "the files of its model",
    "calibration_id": "the files of its calibration text or tokenizer",
    "evaluation_id": "the files that it is evaluated on",
}


@dataclass(frozen=True)
class Wanted:
    """What a person asks for; what is None is not asked for."""

    trial: str | None = None  # an id, or its beginning
    model: str | None = None
    method: str | None = None  # a name (`gptq`) or a label (`GPTQ 3-bit g32`)
    source: str | None = None
    set: int | None = None


@dataclass(frozen=True)
class Chosen:
    """A measured trial: its row in `trials/`, its rows in `metrics/`, those of the dense model, and its study."""

    trial: Trial
    study: Study
    row: Mapping[str, Any]
    metrics: pl.DataFrame
    dense: pl.DataFrame

    @property
    def evaluated(self) -> bool:
        """Whether the row is that of a trial, and not of a compression that nothing measured."""
        return not self.metrics.is_empty()


def choose(store: Results, wanted: Wanted) -> Chosen:
    """The one trial that is wanted. Raises SettingsError when there is none or several, or it failed or changed."""
    document = read_study(store)
    with readable(store, "a file in trials/ or metrics/", "the launch command of the study makes it again"):
        trials, metrics = store.read("trials"), store.read("metrics")
    if document is None or trials.is_empty():
        raise SettingsError(f"--results {store.root}: holds no study with trials; give the folder that a launch wrote")
    row = _one(trials, wanted, store.root)
    study = parse_study(document)
    trials_now = expand(study)
    trial = next((trial for trial in trials_now if trial.id == row["trial_id"]), None)
    if trial is None:
        raise SettingsError(
            f"--results {store.root}: trial {row['trial_id']} ({_name(row)}) can no longer be made: "
            f"{_changed(row, trials_now)}"
        )
    dense = trials.filter(
        (pl.col("method") == "dense") & (pl.col("status") == "ok"),
        *(pl.col(name) == row[name] for name in ("model", "evaluation_id", "dtype")),
    ).head(1)
    return Chosen(
        trial=trial,
        study=study,
        row=row,
        metrics=metrics.filter(pl.col("trial_id") == row["trial_id"]),
        dense=metrics.filter(pl.col("trial_id").is_in(dense["trial_id"].to_list())),
    )


@contextmanager
def readable(store: Results, what: str, remedy: str) -> Iterator[None]:
    """A damaged file among `what` ends in one line with the remedy. Raises SettingsError."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"--results {store.root}: {what} cannot be read ({reason}); {remedy}") from None


def _changed(row: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    """What of the row's trial is not as it was, and what to do, told from the trials that the study has now."""
    now = [describe(trial) for trial in trials]
    for column in NAMING:
        if row[column] not in {found[column] for found in now}:
            return (
                f"study.yaml there has no {column.removesuffix('_label')} {shown(row[column])} any more, since a later "
                "command named others; give the command of then again, which repeats no trial"
            )
    same = next((found for found in now if all(found[name] == row[name] for name in NAMING)), {})
    for column, what in WHAT_CHANGES.items():
        if same and same[column] != row[column]:
            return f"{what} ({column} is {same[column]}, was {row[column]}) are {AS_THEN}"
    return f"the files of its model or its data, or the version of its method, are {AS_THEN}"


def _one(trials: pl.DataFrame, wanted: Wanted, root: str) -> Mapping[str, Any]:
    found = trials.filter(_condition(wanted))
    if found.is_empty():
        raise SettingsError(f"--results {root}: no trial there is {_asked(wanted)}{_nearest(trials, wanted)}")
    usable = found.filter((pl.col("status") == "ok") & (pl.col("method") != "dense"))
    if usable.is_empty():
        row = found.row(0, named=True)
        if row["method"] == "dense":
            why = "is the dense model, which has nothing to export; give a trial that compressed it"
        else:
            why = (
                f"failed, so there are no weights to ship ({row['error']}); a launch with --retry-failed tries it again"
            )
        raise SettingsError(f"--results {root}: trial {row['trial_id']} {why}")
    if usable.height > 1:
        names = [f"{row['trial_id']} ({_name(row)})" for row in usable.head(SHOWN).iter_rows(named=True)]
        more = f" and {usable.height - SHOWN} more" if usable.height > SHOWN else ""
        raise SettingsError(
            f"--results {root}: {usable.height} trials are {_asked(wanted)}: {', '.join(names)}{more}; give one of "
            "the ids, or more of --model, --method, --source and --set"
        )
    row = usable.row(0, named=True)
    if row["first_blocks"] is not None:
        raise SettingsError(
            f"--results {root}: trial {row['trial_id']} compressed its first {row['first_blocks']} blocks alone "
            "(evaluation.first_blocks), so there is no model to ship; give a trial of the whole model"
        )
    return row


def _condition(wanted: Wanted) -> pl.Expr:
    given = pl.lit(True)
    if wanted.trial is not None:
        whole = pl.col("trial_id") == wanted.trial
        given &= whole if len(wanted.trial) < LONG_ID else pl.col("trial_id").str.starts_with(wanted.trial)
    if wanted.method is not None:
        given &= pl.any_horizontal(pl.col("method", "method_label") == wanted.method)
    for column in ("model", "source", "set"):
        if (value := getattr(wanted, column)) is not None:
            given &= pl.col(column) == value
    return given


def _asked(wanted: Wanted) -> str:
    given = {name: value for name, value in vars(wanted).items() if value is not None}
    return ", ".join(f"{name} {value}" for name, value in given.items()) or "any trial"


def _nearest(trials: pl.DataFrame, wanted: Wanted) -> str:
    for column in ("model", "method", "source"):
        value = getattr(wanted, column)
        columns = ["method", "method_label"] if column == "method" else [column]
        names = sorted({name for each in columns for name in trials[each].drop_nulls().to_list()})
        if value is not None and value not in names:
            return f" (unknown {column} {value!r}{suggestion(value, names)})"
    return ""


def _name(row: Mapping[str, Any]) -> str:
    data = "" if row["source"] is None else f", {row['source']} set {row['set']}"
    return f"{row['model']}, {row['method_label']}{data}"
