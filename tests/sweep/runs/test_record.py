"""Rows are made and written beside the next trial, one trial at a time, and nothing of them is lost."""

from __future__ import annotations

import gc
import threading
import time
import weakref
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
from sweep.runs.hands import Small
from sweep.runs.outcome import Outcome
from sweep.runs.provenance import provenance
from sweep.runs.watch import WorkLog
from sweep.storage.status import running
from sweep.trial import Clock, describe


@pytest.fixture
def trials(document: dict[str, Any]) -> list[Trial]:
    document["calibration"]["sets"] = 3
    return plan.expand(parse_study(document))


@pytest.fixture
def actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Actor:
    """A worker whose trials take no time."""
    held = SimpleNamespace(dense=None, evaluators=defaultdict(lambda: None))
    monkeypatch.setattr(worker.Worker, "_hold", lambda *_: held)
    monkeypatch.setattr(worker, "run_trial", quick)
    return Actor(str(tmp_path), provenance(), "cpu", {"write": 3600.0}, lambda reference: reference, print)


def quick(trial: Trial, dense: Any, evaluator: Any, calibration: Any, clock: Any) -> Any:
    with clock("compress"):
        pass

    def rows() -> TrialRows:
        return TrialRows({**describe(trial), "status": "ok"})

    return Quick(rows)


class Quick:
    """Stands in for `Computed`; its rows hold it."""

    def __init__(self, make: Callable[[], TrialRows]) -> None:
        self.make = make

    def rows(self) -> TrialRows:
        return self.make()


def run(actor: Actor, trial: Trial) -> Outcome | str:
    return actor.run_boxed(trial, None, [None], 1, actor.results.root)


def test_what_the_next_trial_needs_comes_while_one_is_on_the_device(
    actor: Actor, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set and the requests are brought by another thread, for which the trial waits here."""
    brought = threading.Event()
    asked: list[Any] = []

    def bring(needed: list[str], num_returns: int) -> None:
        asked.extend([needed, num_returns])
        brought.set()

    def run_trial(*arguments: Any) -> Any:
        assert brought.wait(60)
        return quick(*arguments)

    monkeypatch.setattr(worker, "run_trial", run_trial)
    actor.bring = bring
    actor.run_boxed(trials[0], None, [None], 1, actor.results.root, (trials[1].model, ["set", "requests", Small(1)]))
    assert asked == [["set", "requests"], 2]
    assert isinstance(outcome := actor.recorded(trials[0].id), Outcome) and outcome.status == "ok"


def test_rows_are_made_while_the_next_trial_is_on_the_device(
    actor: Actor, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of each trial wait for the next one; a worker that does one thing after the other would wait in vain."""
    some = trials[:4]
    begun = {trial.id: threading.Event() for trial in some}
    then = dict(zip([trial.id for trial in some], [*list(begun.values())[1:], None], strict=True))

    def run_trial(trial: Trial, *_: Any) -> Quick:
        begun[trial.id].set()
        following = then[trial.id]

        def rows() -> TrialRows:
            assert following is None or following.wait(60)
            return TrialRows({**describe(trial), "status": "ok"})

        return Quick(rows)

    monkeypatch.setattr(worker, "run_trial", run_trial)
    assert [run(actor, trial) for trial in some] == [LEFT] * 4
    assert [actor.recorded(trial.id).status for trial in some] == ["ok"] * 4
    assert set(actor.results.read("trials")["trial_id"]) == {trial.id for trial in some}


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


def test_nothing_is_kept_of_what_is_recorded(
    actor: Actor, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows hold an evaluator, and that holds memory of the device."""
    computed = quick(trials[0], None, None, None, Clock())
    gone = weakref.ref(computed)
    made = [computed]
    monkeypatch.setattr(worker, "run_trial", lambda *_: made.pop())
    del computed
    assert run(actor, trials[0]) == LEFT
    assert actor.recorded(trials[0].id).status == "ok"
    gc.collect()
    assert gone() is None
