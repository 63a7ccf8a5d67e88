"""What a folder says of a study that runs, and of one that has ended."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from sweep.results import Results, main, status
from sweep.storage.lease import Lease
from sweep.storage.status import PLAN, running


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Four of ten trials have ended, of which two failed, and one of four workers is in the middle of a trial."""
    made, now = Results(tmp_path / "r"), datetime.now(timezone.utc)
    made.write_text(PLAN, json.dumps({"study": "tiny", "trials": 10}))
    common: dict[str, Any] = {"study": "tiny", "device": "H100", "seconds_total": 900.0}
    for number in range(4):
        failed = {"status": "failed", "error": "CompressionError: no", "phase": "compress"} if number > 1 else {}
        started = now + timedelta(minutes=number)
        made.commit({**common, "trial_id": str(number), "status": "ok", "started": started, **failed})
    later, earlier = now + timedelta(hours=1), now - timedelta(hours=1)
    logs = {
        "host-1": {"time": later.isoformat(), "event": "begin", "phase": "evaluate"},
        "host-2": {"time": later.isoformat(), "event": "done"},
        "host-3": {"time": earlier.isoformat(), "event": "begin", "phase": "compress"},
    }
    (tmp_path / "r" / "logs").mkdir()
    for name, last in logs.items():
        first = {"time": now.isoformat(), "event": "trial"}
        lines = [json.dumps({**line, "name": "tiny · RTN", "memory": 2**31}) for line in (first, last)]
        (tmp_path / "r" / "logs" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "r" / "logs" / "host-4.jsonl").write_text('{"time": "20')  # it is being written
    return made


def test_study_that_runs_is_told_with_what_its_workers_are_at(results: Results) -> None:
    Lease(results).claim()
    found = status(results.root)
    assert (found.study, found.planned, found.done, found.failed) == ("tiny", 10, 2, 2)
    assert [(busy.worker, busy.trial, busy.phase) for busy in found.running] == [("host-1", "tiny · RTN", "evaluate")]
    assert found.device_hours == {"H100": 1.0}
    assert found.errors == (("CompressionError: no", 2),)
    said = "\n".join(found.lines())
    assert "tiny: 4 of 10 trials ended, 2 of them failed" in said
    assert "  host-1: tiny · RTN, evaluate for 0 s, 2.0 GiB" in said
    assert "1.00 hours of trials on H100" in said
    assert "failed 2 times: CompressionError: no" in said


def test_study_that_has_ended_runs_nowhere_although_logs_end_in_the_middle(
    results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", results.root]) == 0
    said = capsys.readouterr().out
    assert "no launch is running" in said
    assert "host-1" not in said
    assert f"`calibsweep report {results.root}` writes the report" in said
    assert [busy.worker for busy in running(results)] == ["host-1", "host-3"]


def test_the_command_that_is_told_holds_for_a_folder_with_spaces(results: Results) -> None:
    spaced = Path(results.root).rename(Path(results.root).parent / "our results")
    assert f"`calibsweep report '{spaced}'` writes the report" in "\n".join(status(str(spaced)).lines())


def test_folder_without_results_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "there are no results; give the folder" in capsys.readouterr().err


def test_launch_that_was_killed_does_not_run(results: Results) -> None:
    Lease(results).claim()
    lease = json.loads(results.read_text("lease.json") or "")
    results.write_text("lease.json", json.dumps({**lease, "started": "another time"}))  # its number is another's now
    found = status(results.root)
    assert (found.writer, found.running) == (None, ())
    assert "no launch is running" in found.lines()


def test_trial_that_another_worker_has_ended_is_not_that_of_the_one_that_died(results: Results) -> None:
    log = Path(results.path) / "logs" / "host-5.jsonl"
    line = {"time": datetime.now(timezone.utc).isoformat(), "event": "begin", "phase": "compress", "trial": "9"}
    log.write_text(json.dumps(line) + "\n")
    assert "host-5" in [busy.worker for busy in running(results)]
    results.commit({"study": "tiny", "trial_id": "9", "status": "ok"})
    assert "host-5" not in [busy.worker for busy in running(results)]


def test_fewer_planned_trials_than_ended_leave_nothing_to_wait_for(results: Results) -> None:
    Lease(results).claim()
    results.write_text(PLAN, json.dumps({"study": "tiny", "trials": 1}))
    found = status(results.root)
    assert found.left_seconds in (None, 0)
    assert found.lines()[0] == "tiny: 4 trials ended, 2 of them failed"


def test_damaged_row_is_told_in_one_line(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    (Path(results.path) / "trials" / "1.parquet").write_bytes(b"PAR1")
    assert main(["status", results.root]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "a file there is damaged" in said
