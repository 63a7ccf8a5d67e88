"""A trial that has left its device: its rows are made and written, beside the computation of the next one.

Metrics, their standard errors and files take no GPU, so a thread of the worker makes them. One trial is recorded at a
time: when the next one leaves the device before, it waits. So a worker that is killed loses two trials at most, the one
that is recorded and the one on the device. The hard case is a record that fails (a full disk, a metric's own code): the
trial is a failed row then, as if it had failed on the device.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sweep.plan import Trial
from sweep.results import Results, ResultsError, TrialRows
from sweep.runs.errors import error_line
from sweep.runs.headline import headline
from sweep.runs.outcome import Outcome, committed
from sweep.runs.watch import Watch, WatchedClock, WorkLog
from sweep.trial import failed_rows

SWITCH_SECONDS = 0.0005  # Python's 0.005 would let each launch of a kernel wait as long for the thread that records


@dataclass(frozen=True)
class Left:
    """What is recorded of a trial."""

    trial: Trial
    rows: Callable[[], TrialRows]
    columns: Mapping[str, Any]  # of its row, beyond those of `rows`
    seconds: Mapping[str, float]  # by phase, until it left the device
    failed: bool
    results: Results
    log: WorkLog


class Beside(WorkLog):
    """Lines that are marked, since what the worker is at stands in the others."""

    def say(self, event: str, **what: Any) -> None:
        super().say(event, beside=True, **what)


class Recorder:
    """Records trials for one worker, here or in a thread. `limits` are seconds by phase, as of a `Watch`."""

    def __init__(self, limits: Mapping[str, float] | None = None) -> None:
        self._thread = ThreadPoolExecutor(1, "record")
        self._records: dict[str, Future[Outcome]] = {}  # by trial, until they are asked for
        self._now: Left | None = None  # in the thread
        self._watch = Watch(limits, self._hung) if limits else None

    def beside(self, left: Left) -> None:
        """Record a trial in the thread, once the one before is recorded."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self.settle()
        self._records[left.trial.id] = self._thread.submit(self._record, left)

    def settle(self, seconds: float | None = None) -> None:
        """Wait until nothing is being recorded, or for so long."""
        wait(list(self._records.values()), seconds)

    def outcome(self, trial_id: str) -> Outcome:
        """How the record of a trial ended; waits for it. Raises what not even a failed row could be made of."""
        record = self._records[trial_id]
        try:
            return record.result()
        finally:
            del self._records[trial_id]

    def _record(self, left: Left) -> Outcome:
        log = Beside(left.log.path)
        clock = WatchedClock(left.trial.id, str(left.trial), log)
        self._now = left
        if self._watch:
            self._watch.clock = clock
        try:
            outcome = record(left, clock)
        finally:
            self._now = None  # it holds what the evaluator keeps on the device
        log.say("done", trial=left.trial.id, name=str(left.trial), status=outcome.status)
        return outcome

    def _hung(self, error: str) -> None:
        """Commit the row of a trial whose record hangs, before this process ends."""
        left = self._now
        if left and self._watch and self._watch.clock:
            left.log.say("hangs", trial=left.trial.id, phase=self._watch.clock.phase, error=error)
            rows = failed_rows(left.trial, self._watch.clock.phase or "write", error)
            left.results.commit({**rows.trial, **left.columns})


def record(left: Left, clock: WatchedClock) -> Outcome:
    """Make the rows of a trial and commit them, as a failed trial where that fails."""
    trial = left.trial
    try:
        with clock("evaluate", "metrics"):
            rows = left.rows()
    except Exception as error:  # a metric may be the task author's own code
        text = error_line(error, clock.part)
        clock.log.say("failed", trial=trial.id, phase=clock.phase, error=text)
        rows = failed_rows(trial, clock.phase or "evaluate", text)
    rows = TrialRows({**rows.trial, **left.columns}, rows.metrics, rows.samples, rows.layers)
    try:
        return _write(left, rows, clock)
    except (OSError, ResultsError) as error:
        return _write_failed(left, error_line(error), clock)


def _write(left: Left, rows: TrialRows, clock: WatchedClock) -> Outcome:
    attempts = left.columns["attempts"]
    if there := committed(left.results, left.trial, attempts):
        return there
    with clock("write"):
        files = left.results.write_details(rows)
    seconds = _seconds(left, clock)
    row = {
        **rows.trial,
        "files": json.dumps(files),
        "seconds_write": seconds["write"],
        "seconds_total": sum(seconds.values()) - seconds.get("load", 0.0),
    }
    left.results.commit(row)
    with suppress(OSError):
        left.results.forget_started(left.trial.id, range(1, attempts + 1))
    return _outcome(left, row, headline(rows), seconds)


def _write_failed(left: Left, error: str, clock: WatchedClock) -> Outcome:
    """A trial whose tables cannot be written (a full disk, a broken contract) fails; its row may still fit."""
    row = {**failed_rows(left.trial, "write", error).trial, **left.columns}
    try:
        left.results.commit(row)
    except OSError as second:
        row["error"] = f"{error}; nor could this row be written: {error_line(second)}"
    return _outcome(left, row, "", _seconds(left, clock))


def _seconds(left: Left, clock: WatchedClock) -> dict[str, float]:
    """By phase, on the device and beside it."""
    phases = dict.fromkeys((*left.seconds, *clock.seconds))
    return {phase: left.seconds.get(phase, 0.0) + clock.seconds.get(phase, 0.0) for phase in phases}


def _outcome(left: Left, row: Mapping[str, Any], figures: str, seconds: Mapping[str, float]) -> Outcome:
    parts = {name: row.get(f"seconds_{name}") or 0.0 for name in ("tasks", "windows")}
    return Outcome(
        trial=left.trial,
        status=row["status"],
        attempts=row["attempts"],
        seconds={**seconds, **parts},
        headline=figures,
        error=row.get("error"),
        phase=row.get("phase"),
    )
