"""Which rows of a results folder are trials of the study under another id, told by their factors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from calib.settings import SettingsError
from sweep import plan
from sweep.config import apply_override, parse_study
from sweep.results import Results, TrialRows
from sweep.runs.folder import check_stale
from sweep.trial import describe

LATER = ("planned_nsamples", "separator", "add_bos", "calibration_seed")  # columns that the first version lacks


def rows_of(document: dict[str, Any], folder: Path, **changed: Any) -> pl.DataFrame:
    store = Results(folder)
    for trial in plan.expand(parse_study(document)):
        columns = changed if trial.spec else {}
        store.write_trial(TrialRows({**describe(trial), "status": "ok", **columns, "trial_id": f"old-{trial.id}"}))
    return store.read("trials")


def check(document: dict[str, Any], rows: pl.DataFrame) -> None:
    check_stale(plan.expand(parse_study(document)), rows, "folder")


@pytest.mark.parametrize("axis", ["separator=none", "add_bos=true", "seed=7", "sampling=packed"])
def test_a_level_of_a_calibration_axis_is_no_stale_trial_of_another(
    document: dict[str, Any], tmp_path: Path, axis: str
) -> None:
    rows = rows_of(document, tmp_path).filter(~pl.col("data_free"))
    check_stale([], rows, "folder")
    with pytest.raises(SettingsError, match="4 trials there are trials of this study"):
        check(document, rows)
    apply_override(document, f"calibration.{axis}")
    check(document, rows)


def test_every_window_is_a_stale_trial_of_every_window(document: dict[str, Any], tmp_path: Path) -> None:
    document["calibration"].update(nsamples=None, sampling="sequential")
    rows = rows_of(document, tmp_path, nsamples=130).filter(~pl.col("data_free"))  # the count is known once it is built
    with pytest.raises(SettingsError, match="4 trials there are trials of this study"):
        check(document, rows)


def test_rows_of_the_first_version_are_compared_by_what_they_state(document: dict[str, Any], tmp_path: Path) -> None:
    rows = rows_of(document, tmp_path, **dict.fromkeys(LATER)).filter(~pl.col("data_free"))
    with pytest.raises(SettingsError, match="4 trials there are trials of this study"):
        check(document, rows)
    apply_override(document, "calibration.nsamples=5")
    check(document, rows)
