"""One session in a results folder: open it, run what is missing, say how it ended.

Whatever is wrong with the folder, or with what is there beside the new study, is found before a worker starts. The
hard case is an end in the middle (a signal, a cluster that is gone, a disk that fails): it must say what is kept.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from calib.settings import SettingsError, one_line, shown
from sweep import plan
from sweep.config import Study
from sweep.results import Results
from sweep.runs.estimate import expected_seconds
from sweep.runs.folder import check_dtypes, check_evaluation, check_folder, check_stale, read_study
from sweep.runs.interrupts import undisturbed
from sweep.runs.outcome import Outcome
from sweep.runs.packing import Packer, packing
from sweep.runs.phases import STARTING
from sweep.runs.progress import Account, Live, Reporter, duration
from sweep.runs.repair import lost_sets, read_trials, take_back, told
from sweep.runs.runner import Runner, RunnerError
from sweep.runs.schedule import Job
from sweep.storage.lease import EXPIRES, Lease
from sweep.storage.patience import WRITE_PATIENCE
from sweep.storage.status import PLAN, Busy, running


class Ending(Enum):
    """How a session ended."""

    COMPLETE = "all trials are there"
    INCOMPLETE = "some trials failed, or could not be run"
    INTERRUPTED = "a signal came"


@dataclass(frozen=True)
class Session:
    """A study with the results folder that it is run in."""

    study: Study
    trials: Sequence[plan.Trial]
    store: Results
    before: pl.DataFrame  # the rows of `trials/` that were there
    jobs: Sequence[Job]  # what is to run

    @property
    def skipped(self) -> int:
        """Trials that are not run, since their rows are there."""
        return len(self.trials) - len(self.jobs)


def find_results(root: str) -> Results:
    """The results folder, which need not be there yet. Raises SettingsError for a URI that no store understands, and
    for a folder that holds something else.
    """
    if not root.strip() or one_line(root) != root or root.startswith("-"):
        hint = " (write ./ before a folder that begins with -)" if root.startswith("-") else ""
        raise SettingsError(f"--results {shown(root)}: expected a folder, or an s3:// or gs:// URI{hint}")
    try:
        store = Results(root)
    except (OSError, ValueError) as error:
        raise _unusable(root, error) from None
    with usable(store):
        if store.is_local:
            check_folder(store)
    return store


@contextmanager
def usable(store: Results) -> Iterator[None]:
    """What the disk or the object store says of the folder ends in one line. Raises SettingsError."""
    try:
        yield
    except SettingsError:
        raise
    except (OSError, ValueError) as error:
        raise _unusable(store.root, error) from None


def hold(store: Results, held: ExitStack) -> Lease:
    """Keep other launches out of the results folder until `held` closes.

    Raises ResultsError when one is in it, SettingsError when the folder cannot be written.
    """
    lease = Lease(store)
    with usable(store):
        lease.acquire()
    held.callback(_release, lease)
    return lease


def open_session(
    study: Study,
    trials: Sequence[plan.Trial],
    store: Results,
    notify: Callable[[str], None],
    *,
    write: bool,
    retry_failed: bool,
    all_planned: bool = True,
) -> Session:
    """See what is there and what is to run. With `write`, the resolved study is put into the folder, and how many
    trials are planned where `trials` are `all_planned`.

    Damaged files are told to `notify`; their trials have no row, so that they are made again.

    Raises SettingsError when the folder belongs to another study, holds numbers that cannot stand beside the new ones,
    or cannot be written.
    """
    with usable(store):
        there = read_study(store)
        before, damages = read_trials(store, {trial.id for trial in trials})
        check_owner(study, there, before, store)
        check_evaluation(trials, before, store)
        check_stale(trials, before, store.root)
        if write:
            store.write_text("study.yaml", study.to_yaml())
            store.write_text(PLAN, json.dumps({"study": study.name, "trials": len(trials) if all_planned else None}))
            store.remove_leftovers(EXPIRES)
            take_back(store, damages)
        elif not store.is_local or Path(store.path).exists():
            store.check_writable()
        for line in told(store, damages):
            notify(line)
        jobs = jobs_to_run(trials, before, store.started(), retry_failed=retry_failed)
    return Session(study, trials, store, before, jobs)


def check_owner(study: Study, there: Mapping[str, Any] | None, before: pl.DataFrame, store: Results) -> None:
    """Refuse a folder that holds another study, by its study file `there` or its rows. Raises SettingsError."""
    owners = set(before.get_column("study").to_list()) | ({there["study"]} if there is not None else set())
    if others := sorted(str(owner) for owner in owners - {study.name}):
        raise SettingsError(
            f"--results {store.root}: holds results of the study '{others[0]}', not of '{study.name}'; "
            "choose another folder"
        )


def jobs_to_run(
    trials: Sequence[plan.Trial], before: pl.DataFrame, started: Mapping[str, Sequence[int]], *, retry_failed: bool
) -> list[Job]:
    """The trials without a committed row, and failed ones when asked for; their attempts go on counting.

    `started` are starts that no row counts, since a driver and its workers were killed.
    """
    failed = {row["trial_id"]: row["attempts"] or 0 for row in before.iter_rows(named=True) if row["status"] != "ok"}
    done = before.filter(pl.col("status") == "ok").get_column("trial_id").to_list()
    todo = plan.pending(trials, done, failed, retry_failed=retry_failed)
    seconds = expected_seconds(before)
    return [
        Job(trial, max([failed.get(trial.id, 0), *started.get(trial.id, ())]) + 1, seconds=seconds(trial))
        for trial in todo
    ]


def run(
    session: Session, make_runner: Callable[[str], Runner], lease: Lease, reporter: Reporter, account: Account
) -> Ending:
    """Run the jobs and report. `make_runner` is given the folder as workers must write it.

    Raises SettingsError for what is found before the jobs start, KeyboardInterrupt for a signal until then.
    """
    store, jobs = session.store, session.jobs
    with usable(store):
        lost = lost_sets(store, session.before, session.trials)
    again = [trial for trial in session.trials if trial.calibration_id in lost]
    reporter.say(
        f"{session.study.name}: {len(session.trials)} trials, {session.skipped} already there, {len(jobs)} to run "
        f"-> {store.root}"
    )
    if not jobs and not again:
        return finish(session, reporter, account, workers=0)
    if again:
        reporter.say(f"{len(lost)} calibration sets lack their file, or what describes them; these are made again")
    root = store.path if store.is_local else store.root  # absolute: workers have another directory
    runner = make_runner(root)
    with packing(Results(root, WRITE_PATIENCE), lease.check, reporter.say) as packer:
        ended = _run_jobs(session, again, runner, _Watchers(lease, packer, reporter, account))
        with account("packing files"):
            packer.close(rest=ended is None)
    return finish(session, reporter, account, runner.workers, runner.gpus) if ended is None else ended


@dataclass(frozen=True)
class _Watchers:
    """Who is told of each trial that has ended."""

    lease: Lease
    packer: Packer
    reporter: Reporter
    account: Account
    expected: Mapping[str, float] = field(default_factory=dict)  # seconds by trial

    def finished(self, outcome: Outcome) -> None:
        self.account.add(outcome)
        self.reporter.finished(outcome, self.expected.get(outcome.trial.id, 0.0))
        self.packer.finished()
        self.lease.check()


def _run_jobs(session: Session, again: Sequence[plan.Trial], runner: Runner, watchers: _Watchers) -> Ending | None:
    """Run the jobs, and make the calibration sets of the trials `again`. Returns why it ended early, None if not."""
    jobs, reporter, account = session.jobs, watchers.reporter, watchers.account
    todo = [job.trial for job in jobs]
    needs = plan.pools([*todo, *again]), plan.request_sets(todo, again)
    ended: Ending | None = None
    try:
        started = False
        with reporter.preparing():
            with account("starting up"):
                reporter.phase(STARTING)
                runner.foresee(*needs)
                device = runner.start()
                check_dtypes(jobs, session.before, device)
                watchers = replace(watchers, expected=_expected(session, device))
            with account("calibration sets and requests"):
                runner.prepare(*needs)
        live = Live(
            len(jobs),
            partial(_busy, session.store, datetime.now(timezone.utc)),
            reporter.price if device == "cuda" else None,
            gpus=lambda: runner.gpus,
            workers=lambda: runner.workers,
            expected=sum(watchers.expected.values()),
        )
        account.price = live.price
        with account("trials"), reporter.trials(live):
            started = True
            for outcome in runner.run(jobs):
                watchers.finished(outcome)
    except (KeyboardInterrupt, RunnerError, OSError) as error:
        if not started and isinstance(error, OSError):  # what a trial meets is in its row: this is the driver's own
            raise SettingsError(f"nothing was started: {error}") from None
        if not started and isinstance(error, KeyboardInterrupt):
            raise
        ended = _say_why(error, session, reporter, account)
    finally:
        with account("starting up"), undisturbed() as signals:
            runner.close()
    if ended is None and signals:
        ended = _say_why(KeyboardInterrupt(), session, reporter, account)
    return ended


def _expected(session: Session, device: str) -> dict[str, float]:
    """Seconds of each trial to run on one worker of that device."""
    seconds = expected_seconds(session.before)
    return {job.trial.id: seconds(job.trial, on_gpu=device == "cuda") for job in session.jobs}


def _busy(store: Results, since: datetime) -> list[Busy]:
    return list(running(store, since))


def finish(session: Session, reporter: Reporter, account: Account, workers: int, gpus: float = 0.0) -> Ending:
    """Print the summary."""
    trials, before = session.trials, session.before
    planned = {trial.id for trial in trials}
    old = Counter(row["status"] for row in before.iter_rows(named=True) if row["trial_id"] in planned)
    if workers:
        reporter.console.print(account.table(workers))
    ran = account.done + account.failed
    reporter.say(
        f"{account.done} done, {account.failed} failed, {len(trials) - ran} skipped (already there) "
        f"in {duration(sum(account.phases.values()))} -> {session.store.root}"
    )
    if workers and account.price:
        reporter.say(account.price.said(gpus, account.phases.get("trials", 0.0)))
    if ran:
        reporter.say(f"`calibsweep report {shlex.quote(session.store.root)}` writes the report")
    not_retried = len(trials) - ran - old["ok"]
    if account.failed or not_retried:
        reporter.say("failed trials are rows with their error; --retry-failed runs them again")
    return Ending.INCOMPLETE if account.failed or not_retried else Ending.COMPLETE


def _say_why(error: BaseException, session: Session, reporter: Reporter, account: Account) -> Ending:
    """Say what ended the trials too early, and what is kept."""
    kept = (
        f"{session.skipped + account.done} of {len(session.trials)} trials are kept in {session.store.root}; "
        "the same command goes on"
    )
    if isinstance(error, KeyboardInterrupt):
        reporter.say(f"interrupted: {kept}")
        return Ending.INTERRUPTED
    reporter.say(f"stopped: {one_line(str(error))}. {kept}")
    return Ending.INCOMPLETE


def _release(lease: Lease) -> None:
    with undisturbed():
        lease.release()


def _unusable(root: str, error: Exception) -> SettingsError:
    return SettingsError(f"--results {root}: cannot be used: {error}; choose a folder that can be written")
