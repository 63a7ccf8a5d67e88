"""What a session says of how it ended: with a runner of paper."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep import plan
from sweep.config import parse_study
from sweep.launch import make_runner
from sweep.plan import EvaluationKey, Pool, RequestSet
from sweep.results import Results, ResultsError
from sweep.runs.crew import ClusterError
from sweep.runs.outcome import Outcome
from sweep.runs.progress import Account, Reporter
from sweep.runs.runner import RunOptions
from sweep.runs.schedule import Job
from sweep.runs.session import Ending, Session, open_session, run
from sweep.storage.lease import Lease
from sweep.trial import describe


class PaperRunner:
    """Commits a row for each trial; `at` is called before the trial of that number, `closing` while it closes."""

    workers = 1
    gpus = 1.0

    def __init__(self, results: str) -> None:
        self.results = Results(results)
        self.at: dict[int, Callable[[], None]] = {}
        self.closing: Callable[[], None] = lambda: None
        self.closed = False

    def foresee(self, pools: Sequence[Pool], requests: Mapping[EvaluationKey, RequestSet]) -> None:
        self.foreseen = pools, requests

    def start(self) -> str:
        return "cpu"

    def prepare(self, pools: Sequence[Pool], requests: Mapping[EvaluationKey, RequestSet]) -> None:
        assert (pools, requests) == self.foreseen
        assert pools
        assert requests

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for number, job in enumerate(jobs):
            self.at.get(number, lambda: None)()
            self.results.commit({**describe(job.trial), "status": "ok", "dtype": "float32"})
            yield Outcome(job.trial, "ok", job.attempts)

    def close(self) -> None:
        self.closing()
        self.closed = True


@pytest.fixture
def session(document: dict[str, Any], tmp_path: Path) -> Session:
    study = parse_study(document)
    trials = plan.expand(study)
    return open_session(study, trials, Results(tmp_path), print, write=True, retry_failed=False)


@pytest.fixture
def runner(tmp_path: Path) -> PaperRunner:
    return PaperRunner(str(tmp_path))


def finish(session: Session, runner: PaperRunner, capsys: pytest.CaptureFixture[str]) -> tuple[Ending, str]:
    reporter = Reporter(Console(width=200))
    ending = run(session, lambda root: runner, Lease(session.store), reporter, Account())
    assert runner.closed
    return ending, capsys.readouterr().out


def test_whole_session_is_complete(session: Session, runner: PaperRunner, capsys: Any) -> None:
    ending, said = finish(session, runner, capsys)
    assert ending is Ending.COMPLETE
    assert "6 done, 0 failed, 0 skipped" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_while_the_runner_closes_interrupts_when_it_is_closed(
    session: Session, runner: PaperRunner, capsys: Any, number: signal.Signals
) -> None:
    before = signal.signal(number, signal.default_int_handler)
    runner.closing = lambda: os.kill(os.getpid(), number)
    ending, said = finish(session, runner, capsys)
    signal.signal(number, before)
    assert ending is Ending.INTERRUPTED
    assert "interrupted: 6 of 6 trials are kept in" in said


def test_interrupt_in_the_middle_says_what_is_kept(session: Session, runner: PaperRunner, capsys: Any) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    runner.at[4] = interrupt
    ending, said = finish(session, runner, capsys)
    assert ending is Ending.INTERRUPTED
    assert "interrupted: 4 of 6 trials are kept in" in said
    assert "the same command goes on" in said


def test_runner_that_cannot_go_on_says_why_and_what_is_kept(session: Session, runner: PaperRunner, capsys: Any) -> None:
    def gone() -> None:
        raise ClusterError("no node of Ray is alive any more")

    runner.at[2] = gone
    ending, said = finish(session, runner, capsys)
    assert ending is Ending.INCOMPLETE
    assert "stopped: no node of Ray is alive any more. 2 of 6 trials are kept in" in said


def test_attempts_of_drivers_that_were_killed_count(session: Session, document: dict[str, Any]) -> None:
    trials = session.trials
    session.store.mark_started(trials[1].id, 1)
    session.store.mark_started(trials[1].id, 2)
    again = open_session(session.study, trials, session.store, print, write=False, retry_failed=False)
    assert [job.attempts for job in again.jobs] == [1, 3, 1, 1, 1, 1]


@pytest.mark.parametrize("seconds", [-1e6, 1e6])
def test_clock_that_jumps_in_the_middle_changes_nothing(
    seconds: float, session: Session, runner: PaperRunner, capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now, store = time.time, session.store
    young = tmp_path / "trials" / ".1f.parquet.7.tmp"  # of a writer that lives
    young.parent.mkdir()
    young.touch()
    lease = Lease(store)
    lease.acquire()

    def jump() -> None:
        monkeypatch.setattr(time, "time", lambda: now() + seconds)
        lease.claim()  # as its heartbeat does
        with pytest.raises(ResultsError, match="another launch writes there"):
            Lease(Results(store.root)).acquire()

    runner.at[2] = jump
    ending, said = finish(session, runner, capsys)
    lease.release()
    assert ending is Ending.COMPLETE
    assert re.search(r"6 done, 0 failed, 0 skipped \(already there\) in \d+ s ->", said), said
    assert store.remove_leftovers(120.0) == 0
    assert young.exists()
    assert store.keys("trials") == {trial.id for trial in session.trials}


def test_what_is_done_before_the_first_trial_is_said(document: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    study = parse_study(document)
    trials = [trial for trial in plan.expand(study) if trial.spec][:1]
    session = open_session(study, trials, Results(tmp_path), print, write=True, retry_failed=False)
    reporter = Reporter(Console(width=200))
    make = partial(make_runner, options=RunOptions(local=True, gpus_per_worker=0), reporter=reporter)
    assert run(session, make, Lease(session.store), reporter, Account()) is Ending.COMPLETE
    said = capsys.readouterr().out
    expected = ["starting workers", "checking models (tiny)", "reading and tokenizing tasks and held-out texts (tiny)"]
    places = [said.index(text) for text in (*expected, "reading and tokenizing calibration text (", "[1/1]")]
    assert places == sorted(places)
