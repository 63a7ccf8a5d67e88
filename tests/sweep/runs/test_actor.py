"""A worker as others call it: what it says of its own start."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

from sweep.results import Results
from sweep.runs.actor import Actor
from sweep.runs.provenance import provenance
from sweep.storage.status import running


def test_a_worker_says_when_its_process_began_and_when_it_had_its_libraries(tmp_path: Path) -> None:
    actor = Actor(str(tmp_path), provenance(), "cpu", {"write": 3600.0}, lambda reference: reference, print)
    assert actor.process() == os.getpid()
    (log,) = (tmp_path / "logs").glob("*.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["event"], line["part"]) for line in lines] == [
        ("begin", "process"),
        ("end", "process"),
        ("begin", "torch and transformers"),
        ("end", "torch and transformers"),
    ]
    assert all(line["beside"] and not line["trial"] for line in lines)
    times = [datetime.fromisoformat(line["time"]) for line in lines]
    assert times == sorted(times)
    assert times[0] < times[1] == times[2]
    assert list(running(Results(tmp_path))) == []
