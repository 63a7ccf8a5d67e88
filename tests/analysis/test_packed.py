"""The analysis of results whose files were packed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

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
