"""Packing beside a sweep: it begins by itself, readers notice nothing, and a kill loses and doubles nothing."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sweep.results import DETAILS, Results, ResultsError, TrialRows
from sweep.runs.packing import KEEP_SECONDS, Packer, packing
from sweep.runs.repair import read_trials
from sweep.storage.compact import compact
from sweep.storage.store import Store

TABLES = ("trials", *DETAILS)
IDS = [f"{number:04x}" for number in range(60)]


def write(results: Results, trial_id: str, status: str = "ok", value: float = 0.5) -> None:
    rows = TrialRows(
        {"trial_id": trial_id, "status": status, "study": "tiny"},
        [{"kind": "task", "task": task, "metric": "acc", "value": value} for task in ("a", "b")],
        [{"task": "a", "doc_id": number, "score": value} for number in range(3)],
        [{"step": 0, "block": 0, "linear": linear, "relative_error": value} for linear in ("q", "k")],
    )
    results.write_trial(rows)


def tables(root: str) -> list[Any]:
    return [Results(root).read(name).rows() for name in TABLES]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Sixty trials, of which one failed."""
    made = Results(tmp_path / "r")
    for number, trial_id in enumerate(IDS):
        write(made, trial_id, "failed" if number == 3 else "ok", number / 8)
    return made


def wait_for(ready: Callable[[], bool]) -> None:
    while not ready():
        time.sleep(0.02)


def test_trials_are_packed_while_others_end_and_the_rest_at_the_end(results: Results) -> None:
    said: list[str] = []
    packer = Packer(Results(results.root), lambda: None, said.append, pack_at=50)
    packer.start()
    wait_for(lambda: len(results.packed_files("trials")) == 1)  # what was there is enough
    before = tables(results.root)
    for trial_id in ("ff01", "ff02"):
        write(results, trial_id)
        packer.finished()
    packer.close(rest=True)
    assert said == []
    assert [len(results.index(path)) for path in results.packed_files("trials")] == [59, 2]
    assert [row for row in tables(results.root)[0] if row[0] < "ff"] == before[0]
    assert [len(results.files(name)) for name in TABLES] == [3, 3, 3, 3]  # one of the failed trial
    assert [results.status(trial_id) for trial_id in ("0000", "0003", "ff01")] == ["ok", "failed", "ok"]


def test_few_trials_stay_as_they_are(results: Results) -> None:
    with packing(Results(results.root), lambda: None, print) as packer:
        packer.finished()
    assert results.packed_files("trials") == []


def test_who_listed_the_files_before_finds_them_for_some_minutes(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [Results(results.root).files(name) for name in TABLES]
    compact(results, keep_seconds=KEEP_SECONDS)
    assert all(Path(path).exists() for paths in listed for path in paths)
    assert all(len(results.files(name)) == 2 for name in TABLES)
    before = tables(results.root)
    now = Store.now
    monkeypatch.setattr(Store, "now", lambda store: now(store) + KEEP_SECONDS)
    compact(results, keep_seconds=KEEP_SECONDS)
    assert [len(results.own_files(name)) for name in TABLES] == [1, 1, 1, 1]
    assert tables(results.root) == before


def test_trial_that_is_made_again_counts_although_its_file_is_as_long_as_before(results: Results) -> None:
    compact(results, keep_seconds=KEEP_SECONDS)
    time.sleep(0.02)  # clocks of files are coarse
    write(results, "0001", value=9 / 8)
    values = dict(Results(results.root).read("metrics").select("trial_id", "value").iter_rows())
    assert (values["0001"], values["0002"]) == (9 / 8, 2 / 8)


def test_launch_that_is_interrupted_or_lost_its_folder_packs_no_more(results: Results) -> None:
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt), packing(Results(results.root), lambda: None, said.append) as packer:
        packer._packed = True
        raise KeyboardInterrupt
    assert (results.packed_files("trials"), said) == ([], [])

    def lost() -> None:
        raise ResultsError("another launch took the folder over")

    packer = Packer(Results(results.root), lost, said.append, pack_at=50)
    packer.start()
    packer.close(rest=True)
    assert results.packed_files("trials") == []
    assert "another launch took the folder over" in said[0]


KILLED = """
import sys, time
from sweep.results import Results
from sweep.runs import packing
packing.KEEP_SECONDS = float(sys.argv[2])
packer = packing.Packer(Results(sys.argv[1]), lambda: None, print, pack_at=1)
print("ready", flush=True)
packer.start()
while True:
    packer.finished()
    time.sleep(0.001)
"""


@pytest.mark.parametrize("seed", range(4))
def test_kill_while_packing_loses_and_doubles_nothing(results: Results, seed: int) -> None:
    before, keep = tables(results.root), str(600 * (seed % 2))
    command = [sys.executable, "-c", KILLED, results.root, keep]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(random.Random(seed).uniform(0.0, 0.2))
    process.kill()
    process.wait()
    process.stdout.close()
    assert tables(results.root) == before
    assert read_trials(Results(results.root), set(IDS))[1] == []
    compact(Results(results.root))
    assert tables(results.root) == before
    assert [len(results.own_files(name)) for name in TABLES] == [1, 1, 1, 1]


@pytest.mark.parametrize("error", [OSError("full"), pl.exceptions.ComputeError("a page is damaged")])
def test_packing_that_fails_is_told_and_stops_nothing(
    error: Exception, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    told: list[str] = []
    monkeypatch.setattr("sweep.runs.packing.compact", fail)
    packer = Packer(results, lambda: None, told.append, pack_at=1)
    packer.start()
    packer.finished()
    packer.close(rest=True)
    assert len(told) == 1 and told[0].startswith(f"files are not packed any more ({error})")
