"""What is said of trials that end without their worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweep import plan
from sweep.config import parse_study
from sweep.plan import Trial
from sweep.results import Results
from sweep.runs.outcome import commit_failure, committed
from sweep.runs.schedule import Job
from sweep.trial import describe


@pytest.fixture
def trial(document: dict[str, Any]) -> Trial:
    return plan.expand(parse_study(document))[3]


def test_trial_that_is_there_already_is_not_run_again(trial: Trial, tmp_path: Path) -> None:
    results = Results(tmp_path)
    assert committed(results, trial, 2) is None
    results.commit({**describe(trial), "status": "failed"})
    assert committed(results, trial, 2) is None
    results.commit({**describe(trial), "status": "ok"})
    outcome = committed(results, trial, 2)
    assert outcome is not None
    assert (outcome.status, outcome.attempts, outcome.headline) == ("ok", 2, "already there")


def test_failure_of_a_worker_is_a_row_with_all_that_is_known(trial: Trial, tmp_path: Path) -> None:
    outcome = commit_failure(Results(tmp_path), Job(trial, attempts=3), "its worker died", {"commit": "1f"})
    assert (outcome.status, outcome.phase, outcome.error, outcome.broken) == (
        "failed",
        "worker",
        "its worker died",
        True,
    )
    (row,) = Results(tmp_path).read("trials").iter_rows(named=True)
    assert (row["status"], row["phase"], row["error"], row["attempts"], row["commit"]) == (
        "failed",
        "worker",
        "its worker died",
        3,
        "1f",
    )
    assert row["model"] == "tiny"


def test_worker_that_dies_after_its_last_write_does_not_undo_it(trial: Trial, tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.commit({**describe(trial), "status": "ok", "weights_hash": "first"})
    outcome = commit_failure(results, Job(trial), "its worker died", {})
    assert (outcome.status, outcome.broken) == ("ok", True)
    assert results.read("trials")["weights_hash"].to_list() == ["first"]


def test_failure_that_cannot_be_written_is_told_all_the_same(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Results, "commit", full)
    outcome = commit_failure(Results(tmp_path), Job(trial), "its worker died", {})
    assert outcome.error == "its worker died; nor could its row be written: [Errno 28] No space left on device"
