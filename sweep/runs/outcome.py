"""What a driver hears of a trial that has ended; the rows themselves are in the results folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from sweep.plan import Trial
from sweep.results import Results
from sweep.runs.schedule import Job
from sweep.storage.patience import WRITE_PATIENCE
from sweep.trial import failed_rows


@dataclass(frozen=True)
class Outcome:
    """How one trial ended, in the few words that a driver needs."""

    trial: Trial
    status: str  # ok | failed
    attempts: int
    seconds: Mapping[str, float] = field(default_factory=dict)  # by phase, with `tasks` and `windows` of the evaluation
    headline: str = ""
    error: str | None = None
    phase: str | None = None
    broken: bool = False  # the worker cannot run another trial


@lru_cache(maxsize=1)
def patient_store(results: str) -> Results:
    """The results folder of a driver, opened once: a bucket's region is looked up over the network."""
    return Results(results, WRITE_PATIENCE)


def committed(results: Results, trial: Trial, attempts: int) -> Outcome | None:
    """The outcome of a trial whose row is there although this run has not written it; nothing may take its place.

    A worker of a driver that was killed can still commit the trial that it was running.
    """
    if results.status(trial.id) != "ok":
        return None
    return Outcome(trial, "ok", attempts, headline="already there")


def there_already(results: str, job: Job) -> Outcome | None:
    """The outcome of a job that need not run: an earlier start of it has committed. A first start is not looked up."""
    return committed(patient_store(results), job.trial, job.attempts) if job.attempts > 1 else None


def last_words(results: str, job: Job) -> Outcome | None:
    """How a trial failed by the row that its worker wrote before it ended itself; None when there is no such row."""
    store = patient_store(results)
    path = f"{store.path}/trials/{job.trial.id}.parquet"
    if store.status(job.trial.id) != "failed":
        return None
    row = store.read_file("trials", path).row(0, named=True)
    if row["attempts"] != job.attempts:
        return None
    return Outcome(job.trial, "failed", job.attempts, error=row["error"], phase=row["phase"], broken=True)


def commit_failure(
    results: Results, job: Job, error: str, provenance: Mapping[str, Any], phase: str = "worker"
) -> Outcome:
    """Commit a failed row for a trial that no worker could, unless its worker died after its last write."""
    try:
        if there := committed(results, job.trial, job.attempts):
            return replace(there, broken=True)
        row = failed_rows(job.trial, phase, error).trial
        results.commit({**row, **provenance, "attempts": job.attempts})
    except OSError as second:
        error += f"; nor could its row be written: {second}"
    return Outcome(job.trial, "failed", job.attempts, error=error, phase=phase, broken=True)
