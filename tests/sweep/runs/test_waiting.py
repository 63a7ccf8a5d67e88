"""How long a launch's devices wait, from logs with known times."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from benchmarks.waiting import keep_logs, read_logs, show


def write_log(path: Path, *lines: tuple[float, str, str, str, str | None]) -> None:
    """A worker's log of (second, event, trial, phase, part)."""
    path.parent.mkdir(exist_ok=True)
    found: list[dict[str, Any]] = [
        {
            "time": datetime.fromtimestamp(second, timezone.utc).isoformat(),
            "event": event,
            "trial": trial,
            "phase": phase,
            "part": part,
        }
        for second, event, trial, phase, part in lines
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in found))


def test_start_up_and_busy_share_are_those_of_the_log(tmp_path: Path) -> None:
    write_log(
        tmp_path / "logs" / "one.jsonl",
        (105, "begin", "a", "load", "requests"),
        (106, "end", "a", "load", "requests"),
        (110, "begin", "a", "compress", None),
        (114, "end", "a", "compress", None),
        (114, "begin", "a", "evaluate", "metrics"),  # beside the next trial
        (115, "begin", "b", "compress", None),
        (118, "end", "a", "evaluate", "metrics"),
        (118, "done", "a", "", None),
        (119, "end", "b", "compress", None),
        (119, "begin", "b", "write", None),
        (120, "end", "b", "write", None),
        (120, "done", "b", "", None),
    )
    write_log(
        tmp_path / "logs" / "two.jsonl", (112, "begin", "c", "evaluate", None), (120, "end", "c", "evaluate", None)
    )
    found = read_logs(tmp_path, launched=100)
    assert (found.start_up, found.ended) == (10, 2)
    assert found.ends - found.begins == 10
    assert found.busy == pytest.approx((8 + 8) / 20)


def test_what_the_first_worker_did_before_its_first_trial_is_told_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "logs" / "one.jsonl"
    write_log(
        log,
        (103, "begin", "", "start", "torch and transformers"),
        (107, "end", "", "start", "torch and transformers"),
        (101, "begin", "", "start", "process"),
        (103, "end", "", "start", "process"),
        (107, "begin", "", "load", "first use"),
        (112, "end", "", "load", "first use"),
        (113, "begin", "a", "restore", None),
        (114, "end", "a", "restore", None),
    )
    time = datetime.fromtimestamp(107, timezone.utc).isoformat()
    with log.open("a") as file:
        file.write(json.dumps({"time": time, "event": "loaded", "beside": True, "seconds": {"reading": 1.25}}) + "\n")
    write_log(
        tmp_path / "logs" / "two.jsonl",
        (102, "begin", "", "load", "model"),
        (109, "end", "", "load", "model"),
        (120, "begin", "b", "compress", None),
        (121, "end", "b", "compress", None),
    )
    found = read_logs(tmp_path, launched=100)
    assert found.start_up == 13
    assert [span.part for span in found.before()] == ["process", "torch and transformers", "first use"]
    assert found.busy == pytest.approx((1 + 1) / (2 * 8))
    show(found, 25, [])
    printed = capsys.readouterr().out
    assert "7.0 to  12.0 s: load, first use" in printed
    assert "loading ahead: reading 1.2 s" in printed


def test_logs_of_a_launch_take_the_place_of_those_of_the_one_before(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_log(tmp_path / name / "worker.jsonl", (100, "begin", "", "load", "model"))
        (tmp_path / name / "worker.jsonl").rename(tmp_path / name / f"{name}.jsonl")
        keep_logs(tmp_path / name, tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["two.jsonl"]
    keep_logs(tmp_path / "nowhere", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
