"""Runs batches of trials in the full and in the screening folders, with workers that stay from the first to the last.

A batch is a session like any other: what is there already is not run again, whatever is wrong with a folder is found
before a worker starts, and a kill loses nothing. The runner is made for the first batch that has something to run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone

import polars as pl

from calib.settings import SettingsError
from sweep import plan
from sweep.config import Study
from sweep.results import Results
from sweep.runs.estimate import expected_seconds
from sweep.runs.folder import check_dtypes
from sweep.runs.interrupts import undisturbed
from sweep.runs.live import Live
from sweep.runs.progress import Account, Reporter
from sweep.runs.repair import lost_sets
from sweep.runs.runner import Runner, RunnerError
from sweep.runs.session import Session, open_session, usable
from sweep.storage.lease import Lease
from sweep.storage.status import running


class Rounds:
    """`stores`: the results folders by fidelity; `lease`: of the one that is held for both."""

    def __init__(
        self,
        stores: Mapping[str, Results],
        lease: Lease,
        make_runner: Callable[[str], Runner],
        reporter: Reporter,
        *,
        retry_failed: bool = False,
    ) -> None:
        self.stores = stores
        self.lease = lease
        self.reporter = reporter
        self.account = Account()
        self.retry_failed = retry_failed
        self.workers: int | None = None  # that there is room for, when the first trial ran
        self._make_runner = make_runner
        self._runner: Runner | None = None
        self._device = ""

    def run(self, study: Study, trials: Sequence[plan.Trial], fidelity: str) -> pl.DataFrame:
        """Run what is missing of these trials; returns their rows in `trials/`.

        Raises SettingsError for what stands in the way, RunnerError when the trials cannot go on.
        """
        store = self.stores[fidelity]
        session = open_session(
            study, trials, store, self.reporter.say, write=True, retry_failed=self.retry_failed, all_planned=False
        )
        with usable(store):
            lost = lost_sets(store, session.before)
        again = [trial for trial in trials if trial.calibration_id in lost]
        if session.jobs or again:
            self._run(session, again)
        rows = store.read("trials").filter(pl.col("trial_id").is_in([trial.id for trial in trials]))
        if missing := len(trials) - rows.height:
            raise RunnerError(f"{missing} of {len(trials)} trials have no result")
        return rows

    def _run(self, session: Session, again: Sequence[plan.Trial]) -> None:
        todo = [job.trial for job in session.jobs]
        pools, requests = plan.pools([*todo, *again]), plan.request_sets(todo, again)
        runner = self._started(session.store, lambda runner: runner.foresee(pools, requests))
        check_dtypes(session.jobs, session.before, self._device)
        with self.account("calibration sets and requests"), self.reporter.preparing():
            runner.prepare(pools, requests)
        seconds, began = expected_seconds(session.before), datetime.now(timezone.utc)
        expected = {trial.id: seconds(trial, on_gpu=self._device == "cuda") for trial in todo}
        live = Live(
            len(todo),
            lambda: list(running(session.store, began)),
            self.reporter.price if self._device == "cuda" else None,
            gpus=lambda: runner.gpus,
            workers=lambda: runner.workers,
            expected=sum(expected.values()),
        )
        with self.account("trials"), self.reporter.trials(live):
            for outcome in runner.run(session.jobs):
                self.account.add(outcome)
                self.reporter.finished(outcome, expected.get(outcome.trial.id, 0.0))
                self.lease.check()

    def _started(self, store: Results, foresee: Callable[[Runner], None]) -> Runner:
        """The runner, which writes into this folder from now on; one that is yet to start is told what comes first."""
        root = store.path if store.is_local else store.root  # absolute: workers have another directory
        if self._runner is None:
            self._runner = self._make_runner(root)
            self._runner.stay = True
            with self.account("starting up"):
                try:
                    foresee(self._runner)
                    self._device = self._runner.start()
                except OSError as error:
                    raise SettingsError(f"nothing was started: {error}") from None
            self.workers = self._runner.workers
        self._runner.write_to(root)
        return self._runner

    def close(self) -> None:
        """End the workers."""
        if self._runner is not None:
            with undisturbed():
                self._runner.close()
