"""A phase that hangs ends its process, with its stack in the row; a worker's log says what it did."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweep import plan
from sweep.config import parse_study
from sweep.results import Results
from sweep.runs.outcome import last_words
from sweep.runs.schedule import Job
from sweep.runs.watch import HUNG, LIMITS, WatchedClock, WorkLog

HANGS = """
import sys, time, yaml
from sweep import plan, trial
from sweep.config import parse_study
from sweep.runs.local import LocalRunner
from sweep.runs.worker import Worker

def wait_for_ever(*_, **__):
    while True:
        time.sleep(0.01)

trial.compress_model = wait_for_ever
trials = plan.expand(parse_study(yaml.safe_load(open(sys.argv[1]))))
runner = LocalRunner(sys.argv[2], {"commit": "1f"}, "cpu")
runner.start()
runner.prepare(plan.pools(trials), plan.request_sets(trials))
limits = {"compress": 0.5, "load": 600.0, "evaluate": 600.0, "write": 600.0}
worker = Worker(sys.argv[2], {"commit": "1f"}, "cpu", limits)
compressed = next(one for one in trials if one.calibration_id)
requests = runner._requests[plan.evaluation_key(compressed)]
worker.run(compressed, runner._sets[compressed.calibration_id], lambda: requests, attempts=2)
"""


def test_trial_that_hangs_ends_its_worker_and_its_row_says_where_it_was(
    document: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(document))
    root = str(tmp_path / "r")
    done = subprocess.run([sys.executable, "-c", HANGS, str(tmp_path / "study.yaml"), root], capture_output=True)
    assert done.returncode == HUNG, done.stderr
    (row,) = Results(root).read("trials").to_dicts()
    assert (row["status"], row["phase"], row["attempts"]) == ("failed", "compress", 2)
    assert row["error"].startswith("hangs: compress has not ended after ")
    assert " wait_for_ever < sweep/trial.py:" in row["error"]
    log = tmp_path / "r" / "logs" / f"{row['worker'].replace(':', '-')}.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert events[-1]["event"] == "hangs"
    assert events[-2] == {**events[-2], "event": "begin", "phase": "compress", "trial": row["trial_id"]}
    trial = next(one for one in plan.expand(parse_study(document)) if one.id == row["trial_id"])
    told = last_words(root, Job(trial, attempts=2))
    assert told is not None
    assert (told.status, told.phase, told.broken, told.error) == ("failed", "compress", True, row["error"])
    assert last_words(root, Job(trial, attempts=3)) is None  # the row is of an earlier start


def test_clock_counts_as_before_and_only_a_running_phase_hangs() -> None:
    clock = WatchedClock("1f", "a trial", WorkLog(None))
    with pytest.raises(RuntimeError), clock("compress", "a part"):
        assert clock.hangs({"compress": 60.0}) is None
        assert "test_clock_counts" in str(clock.hangs({"compress": 0.0}))
        raise RuntimeError
    assert (clock.phase, clock.part) == ("compress", "a part")
    assert clock.seconds["compress"] > 0
    assert clock.hangs({"compress": 0.0}) is None


def test_clock_can_be_looked_at_from_another_thread() -> None:
    found: list[str | None] = []
    clock = WatchedClock("1f", "a trial", WorkLog(None))
    with clock("evaluate"):
        looker = threading.Thread(target=lambda: found.append(clock.hangs({"evaluate": 0.0})))
        looker.start()
        looker.join()
    assert "test_clock_can_be_looked_at_from_another_thread" in str(found[0])


def test_every_phase_of_a_trial_has_a_limit() -> None:
    assert set(LIMITS) == {"load", "restore", "compress", "evaluate", "write"}


def test_log_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where a folder should be")
    WorkLog(tmp_path / "logs" / "worker.jsonl").say("begin", phase="load")
    assert (tmp_path / "logs").read_text() == "a file where a folder should be"
