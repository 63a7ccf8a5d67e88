"""How long a launch's devices wait, from logs with known times."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from benchmarks.waiting import read_logs


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
