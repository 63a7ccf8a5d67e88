"""The plan on paper: what `--dry-run` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sweep.config import Study
from sweep.plan import Trial
from sweep.runs.budget import examples_worth
from sweep.runs.estimate import estimate
from sweep.runs.schedule import Job


def show_plan(
    console: Console, study: Study, trials: Sequence[Trial], before: pl.DataFrame, jobs: Sequence[Job]
) -> None:
    """Print what a run would do: trials by model and method, calibration sets, and a rough estimate of the time."""
    console.print(f"{escape(study.name)}: {escape(' '.join(study.description.split()))}")
    to_run = Counter((job.trial.model.name, job.trial.label) for job in jobs)
    counts = Counter((trial.model.name, trial.label) for trial in trials)
    seen = {(trial.model.name, trial.label): trial for trial in trials}
    table = Table("model", "parameters", "method", "trials", "to run", box=None, pad_edge=False)
    for (model, label), trial in seen.items():
        size = f"{trial.model.parameters / 1e6:,.1f} M" if trial.model.parameters else "?"
        total = counts[model, label]
        table.add_row(escape(model), size, escape(label), str(total), str(to_run[model, label]))
    console.print(table)
    sources = {spec.source.label: None for spec in study.calibration}
    sets = {trial.calibration_id for trial in trials if trial.calibration_id}
    console.print(f"calibration: {len(sets)} sets from {len(sources)} sources ({escape(', '.join(sources))})")
    evaluation = study.evaluation
    console.print(
        f"evaluation: tasks {escape(', '.join(evaluation.tasks) or 'none')}; "
        f"{len(evaluation.heldout)} held-out texts of {evaluation.heldout_windows or 'all'} windows"
    )
    if worth := examples_worth(trials):
        console.print(escape(worth))
    console.print(f"{len(trials)} trials, {len(trials) - len(jobs)} already there, {len(jobs)} to run")
    if jobs:
        console.print(escape(estimate([job.trial for job in jobs], before)))
