"""The plan on paper: what `--dry-run` prints."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from calib.settings import counted
from sweep.config import Study
from sweep.evaluation.settings import EvaluationSettings
from sweep.models import ModelRef
from sweep.plan import Trial
from sweep.runs.budget import examples_worth
from sweep.runs.cautions import cautions
from sweep.runs.estimate import Machines, estimate
from sweep.runs.machine import gpu_models_here, gpus_here
from sweep.runs.room import Room
from sweep.runs.runner import RunOptions
from sweep.runs.schedule import ONE_KIND, Job, Kind
from sweep.runs.share import PREFIX, resource_of

CLUSTERED = "H100"  # what a plan takes the GPUs of a cluster for


def show_plan(
    console: Console,
    study: Study,
    trials: Sequence[Trial],
    before: pl.DataFrame,
    jobs: Sequence[Job],
    options: RunOptions | None = None,
) -> None:
    """Print what a run would do: trials by model and method, calibration sets, and a rough estimate of the time."""
    say = partial(console.print, soft_wrap=not console.is_terminal)  # a terminal breaks lines between words
    description = " ".join(study.description.split())
    say(escape(f"{study.name}: {description}" if description else study.name))
    console.print(_trials_table(trials, jobs))
    for line in (_calibration_line(study, trials), _evaluation_line(study.evaluation)):
        say(escape(line))
    if worth := examples_worth(trials):
        say(escape(worth))
    say(f"{len(trials)} trials, {len(trials) - len(jobs)} already there, {len(jobs)} to run")
    if jobs:
        todo, chosen = [job.trial for job in jobs], options or RunOptions()
        room = room_here(chosen)
        on_gpus = room.device == "cuda" and not chosen.local
        kinds = room.kind_by_model(list(dict.fromkeys(trial.model for trial in todo))) if on_gpus else {}
        if kinds:
            say(escape(kinds_line(kinds, chosen)))
        for line in cautions(todo):
            say(f"before you run: {escape(line)}")
        say(escape(estimate(todo, before, machines(chosen, kinds.values()))))


def _calibration_line(study: Study, trials: Sequence[Trial]) -> str:
    """`calibration: 2 sets from 1 source (books)`."""
    sets = {trial.calibration_id for trial in trials if trial.calibration_id}
    sources = {spec.source.label: None for spec in study.calibration}
    if not sets:
        return "calibration: none"
    return f"calibration: {counted(len(sets), 'set')} from {counted(len(sources), 'source')} ({', '.join(sources)})"


def _evaluation_line(evaluation: EvaluationSettings) -> str:
    """`evaluation: tasks arc_easy; 2 held-out texts of 8 windows`."""
    size = counted(evaluation.heldout_windows, "window") if evaluation.heldout_windows else "all windows"
    texts = (
        f"{counted(len(evaluation.heldout), 'held-out text')} of {size}" if evaluation.heldout else "no held-out text"
    )
    return f"evaluation: tasks {', '.join(evaluation.tasks) or 'none'}; {texts}"


def _trials_table(trials: Sequence[Trial], jobs: Sequence[Job]) -> Table:
    """A row per model and method: its trials, and how many of them are to run."""
    to_run = Counter((job.trial.model.name, job.trial.label) for job in jobs)
    counts = Counter((trial.model.name, trial.label) for trial in trials)
    seen = {(trial.model.name, trial.label): trial for trial in trials}
    table = Table(box=None, pad_edge=False)
    for name in ("model", "parameters", "method", "trials", "to run"):
        is_number = name not in ("model", "method")
        table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    for (model, label), trial in seen.items():
        size = f"{trial.model.parameters / 1e6:,.1f} M" if trial.model.parameters else "?"
        total = counts[model, label]
        table.add_row(escape(model), size, escape(label), str(total), str(to_run[model, label]))
    return table


def machines(options: RunOptions, kinds: Iterable[Kind] = ()) -> Machines:
    """What a run with these options would have, as far as it is known here: a cluster is not asked."""
    if options.address:
        return Machines(options.workers or 1, "cpu" if options.on_cpus else "cuda")
    room = replace(room_here(options), kinds=tuple(sorted({*kinds})) or (ONE_KIND,))
    return Machines(1 if options.local else options.workers or max(1, room.workers), room.device)


def room_here(options: RunOptions) -> Room:
    """This machine; of a cluster, which is not asked, a node with one GPU."""
    if options.address:
        return Room([{"CPU": 8.0, "GPU": 1.0, f"{PREFIX}{CLUSTERED}": 1.0}], options)
    kinds = {resource_of(name): 1.0 for name in gpu_models_here()}
    return Room([{"CPU": float(os.cpu_count() or 1), "GPU": float(gpus_here()), **kinds}], options)


def kinds_line(kinds: Mapping[ModelRef, Kind], options: RunOptions) -> str:
    """`GPUs of a worker: 0.125 (reference-2m, reference-5m), 1 (llama-7b)`."""
    names: dict[Kind, list[str]] = {}
    for model, kind in sorted(kinds.items(), key=lambda item: item[1]):
        names.setdefault(kind, []).append(model.name)
    where = f", where a GPU is an {CLUSTERED}" if options.address and options.gpus_per_worker is None else ""
    return f"GPUs of a worker{where}: " + ", ".join(f"{kind:g} ({', '.join(found)})" for kind, found in names.items())
