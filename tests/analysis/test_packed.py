"""The analysis of results whose files were packed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from analysis.estimates.outcomes import outcomes_by_model
from analysis.frames import load
from sweep.results import main as results_main


def test_packed_results_give_the_same_frames(simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.storage.lease.SETTLE", (0.0, 0.0))
    shutil.copytree(simulated, tmp_path / "packed")
    before = load(str(simulated))
    assert results_main(["compact", str(tmp_path / "packed")]) == 0
    after = load(str(tmp_path / "packed"))
    assert not after.results.own_files("trials")
    assert after.trials.equals(before.trials)
    assert after.values.equals(before.values)
    assert after.limitations == before.limitations


def test_trials_that_lie_across_row_groups_keep_all_their_examples(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polars hands the row groups of a file on in the order in which they are decoded."""
    monkeypatch.setattr("sweep.storage.lease.SETTLE", (0.0, 0.0))
    monkeypatch.setattr("sweep.storage.packs.ROW_GROUP", 50)
    shutil.copytree(simulated, tmp_path / "packed")
    assert results_main(["compact", str(tmp_path / "packed")]) == 0
    before = list(outcomes_by_model(load(str(simulated))))
    after = list(outcomes_by_model(load(str(tmp_path / "packed"))))
    assert [outcomes.model for outcomes in after] == [outcomes.model for outcomes in before]
    for packed, own in zip(after, before, strict=True):
        assert packed.trials.equals(own.trials)
        for column, tasks in own.matrices.items():
            assert packed.matrices[column].keys() == tasks.keys()
            for task, matrix in tasks.items():
                np.testing.assert_array_equal(packed.matrices[column][task], matrix)
