"""`python -m sweep.launch [STUDY]`: plan a study, run what is missing, say where the time went.

Flags say where and how to run, never what: everything that can change a number stands in the study file (or in
`--set`, which edits it). Whatever is wrong with the study is found before the first worker starts. Exit codes: 0 all
trials are there, 1 a trial failed, 2 the study or the machines cannot be used as asked, 130 interrupted.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from calib.settings import SettingsError
from sweep import plan
from sweep.config import Study, load_study
from sweep.estimate import estimate
from sweep.folder import check_evaluation
from sweep.lease import Lease
from sweep.progress import Account, Reporter, duration
from sweep.results import Results, ResultsError
from sweep.schedule import Job

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
_FACTORS = ("model", "settings", "source", "set", "seqlen", "sampling", "seed")
CELL = (*_FACTORS, "planned_nsamples", "separator", "add_bos", "calibration_seed")
FIRST_CELL = (*_FACTORS, "nsamples")  # what rows of the first version state
PACKAGES = ("torch", "transformers", "lm_eval", "ray", "numpy", "calibration-sweep")

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    study: Annotated[
        str, typer.Argument(help="A study that ships (reference, paper_a, ...) or a YAML file.")
    ] = "reference",
    results: Annotated[
        str | None, typer.Option(help="Folder or s3:// gs:// URI of the results [default: results/<study>].")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change the study: key=value, such as calibration.sets=2.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the trials and an estimate, and stop.")] = False,
    local: Annotated[bool, typer.Option("--local", help="Run in this process, without Ray.")] = False,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster (auto, or host:port).")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers [default: as many as there is room for; a GPU cluster grows].")
    ] = None,
    gpus_per_worker: Annotated[
        float, typer.Option(min=0.0, help="GPUs of a worker; 0.5 lets two share one, 0 runs on CPUs.")
    ] = 1.0,
) -> None:
    """Run a study: compress and evaluate every model with every calibration set, and write the results as Parquet.

    What is done already is not run again, so after an interruption give the same command.
    """
    reporter = Reporter()
    earlier = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with ExitStack() as held:
            account = Account()
            with account("planning"):
                check_share(gpus_per_worker)
                chosen = load_study(study, set_ or [])
                plan.check(chosen)
                trials = plan.expand(chosen)
                store = find_results(results or f"results/{chosen.name}")
                lease = None if dry_run else hold(store, held)
                before = open_results(chosen, trials, store, write=not dry_run)
                jobs = jobs_to_run(trials, before, retry_failed)
            if lease is None:
                show_plan(reporter.console, chosen, trials, before, jobs)
                code = OK
            else:
                options = {"local": local, "address": address, "workers": workers, "gpus_per_worker": gpus_per_worker}
                code = run(chosen, trials, jobs, before, store, lease, reporter, account, options)
    except (SettingsError, ResultsError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        code = BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted before any trial started", file=sys.stderr)
        code = INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, earlier)
    raise typer.Exit(code)


def run(
    study: Study,
    trials: Sequence[plan.Trial],
    jobs: Sequence[Job],
    before: pl.DataFrame,
    store: Results,
    lease: Lease,
    reporter: Reporter,
    account: Account,
    options: Mapping[str, Any],
) -> int:
    """Run the jobs and report. Returns the exit code; raises SettingsError for what is found before they start."""
    skipped = len(trials) - len(jobs)
    reporter.say(f"{study.name}: {len(trials)} trials, {skipped} already there, {len(jobs)} to run -> {store.root}")
    if not jobs:
        return finish(trials, before, store, reporter, account, workers=0)
    root = store.path if store.is_local else store.root  # absolute: a worker has a working directory of its own
    runner = make_runner(root, options, reporter)
    started = False
    try:
        with account("starting up"):
            device = runner.start()
            check_dtypes(jobs, before, device)
        with account("calibration sets and requests"):
            todo = [job.trial for job in jobs]
            runner.prepare(plan.pools(todo), plan.request_sets(todo))
        with account("trials"), reporter.trials(len(jobs)):
            started = True
            for outcome in runner.run(jobs):
                account.add(outcome)
                reporter.finished(outcome)
                lease.check()
    except KeyboardInterrupt:
        if not started:
            raise
        kept = skipped + account.done
        reporter.say(f"interrupted: {kept} of {len(trials)} trials are kept in {store.root}; the same command goes on")
        return INTERRUPTED
    except RuntimeError as error:
        if type(error).__name__ != "ClusterError":
            raise
        reporter.say(f"stopped: {error}. {skipped + account.done} of {len(trials)} trials are kept in {store.root}")
        return FAILED
    finally:
        with account("starting up"):
            runner.close()
    return finish(trials, before, store, reporter, account, runner.workers)


def finish(
    trials: Sequence[plan.Trial],
    before: pl.DataFrame,
    store: Results,
    reporter: Reporter,
    account: Account,
    workers: int,
) -> int:
    """Print the summary; returns the exit code."""
    planned = {trial.id for trial in trials}
    old = Counter(row["status"] for row in before.iter_rows(named=True) if row["trial_id"] in planned)
    if workers:
        reporter.console.print(account.table(workers))
    ran = account.done + account.failed
    reporter.say(
        f"{account.done} done, {account.failed} failed, {len(trials) - ran} skipped (already there) "
        f"in {duration(sum(account.phases.values()))} -> {store.root}"
    )
    not_retried = len(trials) - ran - old["ok"]
    if account.failed or not_retried:
        reporter.say("failed trials are rows with their error; --retry-failed runs them again")
    return FAILED if account.failed or not_retried else OK


# before the run


def check_share(gpus_per_worker: float) -> None:
    """Raise SettingsError for a number of GPUs that Ray cannot give to one worker."""
    if gpus_per_worker > 1 and gpus_per_worker % 1:
        raise SettingsError(
            f"--gpus-per-worker {gpus_per_worker:g}: a worker has a share of one GPU (such as 0.5) or whole ones "
            f"(such as {round(gpus_per_worker)})"
        )


def find_results(root: str) -> Results:
    """The results folder, which need not be there yet. Raises SettingsError for a URI that no store understands."""
    try:
        return Results(root)
    except (OSError, ValueError) as error:
        raise _unusable(root, error) from None


def hold(store: Results, held: ExitStack) -> Lease:
    """Keep other launches out of the results folder until `held` closes.

    Raises ResultsError when one is in it, SettingsError when the folder cannot be written.
    """
    lease = Lease(store)
    try:
        lease.acquire()
    except OSError as error:
        raise _unusable(store.root, error) from None
    held.callback(lease.release)
    return lease


def open_results(study: Study, trials: Sequence[plan.Trial], store: Results, *, write: bool) -> pl.DataFrame:
    """The rows of `trials/` that the results folder holds. With `write`, the resolved study is put there.

    Raises SettingsError when the folder belongs to another study, holds numbers that cannot stand beside the new ones,
    or cannot be written.
    """
    root = store.root
    try:
        text = store.read_text("study.yaml")
        before = store.read("trials")
        owners = set(before.get_column("study").to_list())
        if text is not None:
            owners.add((yaml.safe_load(text) or {}).get("study"))
        if others := sorted(str(owner) for owner in owners - {study.name}):
            raise SettingsError(
                f"--results {root}: holds results of the study '{others[0]}', not of '{study.name}'; "
                "choose another folder"
            )
        check_evaluation(trials, before, store)
        check_stale(trials, before, root)
        if write:
            store.write_text("study.yaml", study.to_yaml())
    except (OSError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        raise _unusable(store.root, error) from None
    return before


def _unusable(root: str, error: Exception) -> SettingsError:
    return SettingsError(f"--results {root}: cannot be used: {error}; choose a folder that can be written")


def check_stale(trials: Sequence[plan.Trial], before: pl.DataFrame, root: str) -> None:
    """Refuse to put new numbers beside old ones of the same cell: the tables would mix them.

    A cell is a trial by its factors. The same cell under another id was made with other tasks, model files, or code.
    """
    if before.is_empty():
        return
    from sweep.trial import describe

    planned = {trial.id for trial in trials}
    cells = {_cell(describe(trial), names) for trial in trials for names in (FIRST_CELL, CELL)}
    stale = [
        row
        for row in before.iter_rows(named=True)
        if row["trial_id"] not in planned and _cell(row, _cell_names(row)) in cells
    ]
    if stale:
        raise SettingsError(
            f"--results {root}: {len(stale)} trials there are trials of this study made with another evaluation, other "
            f"files or other code (such as {stale[0]['model']}, {stale[0]['method_label']}); "
            "choose another folder, or delete this one"
        )


def _cell_names(row: Mapping[str, Any]) -> Sequence[str]:
    """The factors that a row states: one with calibration data and no separator is of the first version."""
    return FIRST_CELL if row["source"] is not None and row["separator"] is None else CELL


def _cell(row: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def jobs_to_run(trials: Sequence[plan.Trial], before: pl.DataFrame, retry_failed: bool) -> list[Job]:
    """The trials without a committed row, and failed ones when asked for; their attempts go on counting."""
    attempts = {row["trial_id"]: row["attempts"] or 0 for row in before.iter_rows(named=True) if row["status"] != "ok"}
    done = before.filter(pl.col("status") == "ok").get_column("trial_id").to_list()
    todo = plan.pending(trials, done, attempts, retry_failed)
    return [Job(trial, attempts.get(trial.id, 0) + 1) for trial in todo]


def check_dtypes(jobs: Sequence[Job], before: pl.DataFrame, device: str) -> None:
    """Refuse to mix dtypes in one folder: `auto` is float32 on a CPU and the checkpoint's dtype on a GPU."""
    done = before.filter((pl.col("status") == "ok") & pl.col("dtype").is_not_null())
    known = set(done.select("model", "dtype").unique().iter_rows())
    for job in jobs:
        model = job.trial.model
        expected = model.expected_dtype(device)
        others = sorted(dtype for name, dtype in known if name == model.name and dtype != expected)
        if model.dtype == "auto" and expected and others:
            raise SettingsError(
                f"models: {model.name} would run in {expected} on this machine ({device}), but the results there "
                f"are in {others[0]}; give the model's `dtype` in the study, or choose another --results folder"
            )


def make_runner(root: str, options: Mapping[str, Any], reporter: Reporter) -> Any:
    """Ray, or a plain loop in this process."""
    if options["local"]:
        from sweep.local import LocalRunner

        if options["address"] or (options["workers"] or 1) > 1:
            raise SettingsError("--local: runs one worker in this process; leave --address and --workers out")
        return LocalRunner(root, provenance(), None if options["gpus_per_worker"] else "cpu")
    from sweep.remote import RayRunner

    return RayRunner(
        root,
        provenance(),
        address=options["address"],
        workers=options["workers"],
        gpus_per_worker=options["gpus_per_worker"],
        notify=reporter.say,
    )


def provenance() -> dict[str, Any]:
    """Columns of `trials/` that are the same for the whole run: versions and commit."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
            versions[name] = None
    return {"versions": json.dumps(versions, sort_keys=True), "commit": git_commit()}


def git_commit() -> str | None:
    """Commit of the checkout that holds this file, with `+` for local changes; None when it is in none."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{git('rev-parse', 'HEAD')}{'+' if changed else ''}"


# the plan on paper


def show_plan(
    console: Console, study: Study, trials: Sequence[plan.Trial], before: pl.DataFrame, jobs: Sequence[Job]
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
    console.print(f"{len(trials)} trials, {len(trials) - len(jobs)} already there, {len(jobs)} to run")
    if jobs:
        console.print(escape(estimate([job.trial for job in jobs], before)))


def _interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    app()
