"""Rows are made and written beside the next trial, one trial at a time, and nothing of them is lost."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweep import plan
from sweep.config import parse_study
from sweep.plan import Trial
from sweep.results import Results, TrialRows
from sweep.runs import worker
from sweep.runs.actor import LEFT, Actor
from sweep.runs.outcome import Outcome
from sweep.runs.provenance import provenance
from sweep.runs.watch import WorkLog
from sweep.storage.status import running
from sweep.trial import describe

DEVICE, BESIDE = 0.3, 0.2  # seconds of a trial


@pytest.fixture
def trials(document: dict[str, Any]) -> list[Trial]:
    document["calibration"]["sets"] = 3
    return plan.expand(parse_study(document))


@pytest.fixture
def actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Actor:
    """A worker whose trials sleep on the device, and then beside it."""
    held = SimpleNamespace(dense=None, evaluators=defaultdict(lambda: None))
    monkeypatch.setattr(worker.Worker, "_hold", lambda *_: held)
    monkeypatch.setattr(worker, "run_trial", sleepy)
    return Actor(str(tmp_path), provenance(), "cpu", {"write": 3600.0}, lambda reference: reference)


def sleepy(trial: Trial, dense: Any, evaluator: Any, calibration: Any, clock: Any) -> Any:
    with clock("compress"):
        time.sleep(DEVICE)

    def rows() -> TrialRows:
        time.sleep(BESIDE)
        return TrialRows({**describe(trial), "status": "ok"})

    return SimpleNamespace(rows=rows)


def run(actor: Actor, trial: Trial) -> Outcome | str:
    return actor.run_boxed(trial, None, [None], 1, actor.results.root)


def test_device_works_most_of_the_time(actor: Actor, trials: list[Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Results, "write_details", lambda *_: {})  # the disk may be slow
    monkeypatch.setattr(os, "fsync", lambda _: None)
    some = trials[:8]
    assert len(some) == 8
    begin = time.perf_counter()
    assert [run(actor, trial) for trial in some] == [LEFT] * 8
    busy = len(some) * DEVICE / (time.perf_counter() - begin)
    assert busy > 0.75  # one after the other: 0.6
    assert [actor.recorded(trial.id).status for trial in some] == ["ok"] * 8
    rows = actor.results.read("trials")
    assert set(rows["trial_id"]) == {trial.id for trial in some}
    assert rows["seconds_total"].min() >= DEVICE + BESIDE  # type: ignore[operator]


def blocked(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writing waits until this is set."""
    go, write = threading.Event(), Results.write_details

    def wait(self: Results, rows: TrialRows) -> Any:
        assert go.wait(60)
        return write(self, rows)

    monkeypatch.setattr(Results, "write_details", wait)
    return go


def test_one_trial_is_recorded_at_a_time(actor: Actor, trials: list[Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    go = blocked(monkeypatch)
    first, second = trials[:2]
    assert run(actor, first) == LEFT
    computing = threading.Thread(target=run, args=(actor, second))
    computing.start()
    computing.join(1.0)
    assert computing.is_alive()  # it has left the device, and waits for the first
    assert actor.results.started().keys() == {first.id, second.id}
    go.set()
    computing.join(60)
    assert [actor.recorded(trial.id).status for trial in (first, second)] == ["ok", "ok"]
    assert actor.results.started() == {}


def test_trial_that_cannot_be_recorded_is_a_failed_row(
    actor: Actor, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> TrialRows:
        raise ZeroDivisionError("no example")

    monkeypatch.setattr(worker, "run_trial", lambda *_: SimpleNamespace(rows=broken))
    assert run(actor, trials[0]) == LEFT
    outcome = actor.recorded(trials[0].id)
    assert (outcome.status, outcome.phase, outcome.broken) == ("failed", "evaluate", False)
    assert "ZeroDivisionError: no example" in str(outcome.error)
    assert actor.results.read("trials")["status"].to_list() == ["failed"]


def test_trial_that_fails_on_the_device_is_told_at_once(
    actor: Actor, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(actor, trials[0]) == LEFT

    def fails(*_: Any) -> Any:
        raise ValueError("not positive definite")

    monkeypatch.setattr(worker, "run_trial", fails)
    outcome = run(actor, trials[1])
    assert isinstance(outcome, Outcome)
    assert outcome.status == "failed"
    assert str(outcome.error).startswith("ValueError: not positive definite")
    assert actor.recorded(trials[0].id).status == "ok"


def test_log_says_what_the_device_is_at(actor: Actor, trials: list[Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    go = blocked(monkeypatch)
    assert run(actor, trials[0]) == LEFT
    at = WorkLog(actor.log.path)
    at.say("begin", trial=trials[1].id, name="the next", phase="compress")
    go.set()
    assert actor.recorded(trials[0].id).status == "ok"
    assert [(busy.trial, busy.phase) for busy in running(actor.results)] == [("the next", "compress")]


def test_record_that_hangs_ends_in_a_row(actor: Actor, trials: list[Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    go = blocked(monkeypatch)
    assert run(actor, trials[0]) == LEFT
    hung: Callable[[str], None] = actor.recorder._hung
    wait_for(lambda: actor.recorder._watch is not None and actor.recorder._watch.clock is not None)
    hung("hangs: write has not ended")
    row = actor.results.read("trials").row(0, named=True)
    assert (row["status"], row["error"], row["attempts"]) == ("failed", "hangs: write has not ended", 1)
    go.set()


def wait_for(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)
