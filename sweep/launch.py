"""`python -m sweep.launch [STUDY]`: plan a study, run what is missing, say where the time went.

Flags say where and how to run, never what: everything that can change a number stands in the study file (or in
`--set`, which edits it). Whatever is wrong with the study is found before the first worker starts. `--help` says what
the exit codes mean.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
import typer.core

from calib.settings import SettingsError, one_line, shown
from sweep import plan
from sweep.config import Study, load_study
from sweep.results import Results, ResultsError
from sweep.runs.folder import check_dtypes, check_evaluation, check_folder, check_stale, read_study
from sweep.runs.interrupts import interruptible, undisturbed, undisturbed_from_now_on
from sweep.runs.lease import EXPIRES, Lease
from sweep.runs.preview import show_plan
from sweep.runs.progress import Account, Reporter, duration
from sweep.runs.provenance import provenance
from sweep.runs.repair import lost_sets, read_trials, take_back, told
from sweep.runs.schedule import ClusterError, Job

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

MAX_WORKERS = 10_000
SHARE = (0.01, 64)  # GPUs of a worker: Ray counts no finer share, and no machine has more


UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # of click, which newer versions of typer bring along


class OneLine(typer.core.TyperCommand):
    """Flags that cannot be read end in one line, as everything else that is wrong does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = " ".join(args)
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            reason = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
            report(SettingsError(f"{reason}, in: {given}; --help lists all flags"))
            raise typer.Exit(BAD_INPUT) from None


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(cls=OneLine)
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
        int | None, typer.Option(help="Workers [default: as many as there is room for; a GPU cluster grows].")
    ] = None,
    gpus_per_worker: Annotated[
        float, typer.Option(help="GPUs of a worker; 0.5 lets two share one, 0 runs on CPUs.")
    ] = 1.0,
) -> None:
    """Run a study: compress and evaluate every model with every calibration set, and write the results as Parquet.

    What is done already is not run again, so after an interruption give the same command.

    Exit codes: 0 all trials are there, 1 some failed or the cluster is gone, 2 the study, the flags or the machines
    cannot be used as asked, 130 interrupted.
    """
    reporter = Reporter()
    try:
        with interruptible(), ExitStack() as held:
            account = Account()
            with account("planning"):
                check_flags(local, address, workers, gpus_per_worker)
                chosen, trials = plan_study(study, set_ or [])
                store = find_results(f"results/{chosen.name}" if results is None else results)
                lease = None if dry_run else hold(store, held)
                before = open_results(chosen, trials, store, reporter.say, write=not dry_run)
                with usable(store):
                    jobs = jobs_to_run(trials, before, store.started(), retry_failed)
            if lease is None:
                show_plan(reporter.console, chosen, trials, before, jobs)
                code = OK
            else:
                options = {"local": local, "address": address, "workers": workers, "gpus_per_worker": gpus_per_worker}
                code = run(chosen, trials, jobs, before, store, lease, reporter, account, options)
    except (SettingsError, ResultsError) as error:
        report(error)
        code = BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, and the same command goes on", file=sys.stderr)
        code = INTERRUPTED
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
    with usable(store):
        lost = lost_sets(store, before)
    again = [trial for trial in trials if trial.calibration_id in lost]
    reporter.say(f"{study.name}: {len(trials)} trials, {skipped} already there, {len(jobs)} to run -> {store.root}")
    if not jobs and not again:
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
            runner.prepare(plan.pools([*todo, *again]), plan.request_sets(todo))
        with account("trials"), reporter.trials(len(jobs)):
            started = True
            for outcome in runner.run(jobs):
                account.add(outcome)
                reporter.finished(outcome)
                lease.check()
    except (KeyboardInterrupt, ClusterError, OSError) as error:
        if not started and isinstance(error, OSError):  # what a trial meets is in its row: this is the driver's own
            raise SettingsError(f"nothing was started: {error}") from None
        if not started and isinstance(error, KeyboardInterrupt):
            raise
        kept = f"{skipped + account.done} of {len(trials)} trials are kept in {store.root}; the same command goes on"
        interrupted = isinstance(error, KeyboardInterrupt)
        reporter.say(f"interrupted: {kept}" if interrupted else f"stopped: {one_line(str(error))}. {kept}")
        return INTERRUPTED if interrupted else FAILED
    finally:
        with account("starting up"), undisturbed():
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


def report(error: Exception) -> None:
    """Print what is wrong, one printable line for each thing."""
    for line in error.lines if isinstance(error, SettingsError) else [one_line(str(error))]:
        print(f"error: {line}", file=sys.stderr)


def check_flags(local: bool, address: str | None, workers: int | None, gpus_per_worker: float) -> None:
    """Raise SettingsError for flags that do not go together, or that ask for what no machine has."""
    if workers is not None and not 1 <= workers <= MAX_WORKERS:
        raise SettingsError(f"--workers {workers}: expected 1 to {MAX_WORKERS:,}")
    if not (gpus_per_worker == 0 or SHARE[0] <= gpus_per_worker <= SHARE[1]):  # not so for nan
        raise SettingsError(
            f"--gpus-per-worker {gpus_per_worker:g}: expected 0 (run on CPUs), a share of one GPU from {SHARE[0]:g}, "
            f"or whole ones up to {SHARE[1]}"
        )
    if gpus_per_worker > 1 and gpus_per_worker % 1:
        raise SettingsError(
            f"--gpus-per-worker {gpus_per_worker:g}: a worker has a share of one GPU (such as 0.5) or whole ones "
            f"(such as {round(gpus_per_worker)})"
        )
    if address is not None and not re.fullmatch(r"[A-Za-z0-9\[][^\s]*", address):
        raise SettingsError(f"--address {shown(address)}: expected auto, or host:port of a running cluster")
    if local and (address or (workers or 1) > 1):
        raise SettingsError("--local: runs one worker in this process; leave --address and --workers out")


def plan_study(study: str, overrides: Sequence[str]) -> tuple[Study, list[plan.Trial]]:
    """The study and its trials. Raises SettingsError for whatever can be known to be wrong with them."""
    try:
        chosen = load_study(study, overrides)
        plan.check(chosen)
        return chosen, plan.expand(chosen)
    except OSError as error:  # a name that no disk takes, a folder that may not be looked into, ...
        raise SettingsError(f"{shown(error.filename or study)} cannot be used: {error.strerror or error}") from None


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
    held.callback(undisturbed()(lease.release))
    return lease


def open_results(
    study: Study, trials: Sequence[plan.Trial], store: Results, notify: Callable[[str], None], *, write: bool
) -> pl.DataFrame:
    """The rows of `trials/` that the results folder holds. With `write`, the resolved study is put there.

    Damaged files are told to `notify`; their trials have no row, so that they are made again.

    Raises SettingsError when the folder belongs to another study, holds numbers that cannot stand beside the new ones,
    or cannot be written.
    """
    root = store.root
    with usable(store):
        there = read_study(store)
        before, damages = read_trials(store, {trial.id for trial in trials})
        owners = set(before.get_column("study").to_list())
        if there is not None:
            owners.add(there["study"])
        if others := sorted(str(owner) for owner in owners - {study.name}):
            raise SettingsError(
                f"--results {root}: holds results of the study '{others[0]}', not of '{study.name}'; "
                "choose another folder"
            )
        check_evaluation(trials, before, store)
        check_stale(trials, before, root)
        if write:
            store.write_text("study.yaml", study.to_yaml())
            store.remove_leftovers(EXPIRES)
            take_back(store, damages)
        elif not store.is_local or Path(store.path).exists():
            store.check_writable()
    for line in told(store, damages):
        notify(line)
    return before


def _unusable(root: str, error: Exception) -> SettingsError:
    return SettingsError(f"--results {root}: cannot be used: {error}; choose a folder that can be written")


def jobs_to_run(
    trials: Sequence[plan.Trial], before: pl.DataFrame, started: Mapping[str, Sequence[int]], retry_failed: bool
) -> list[Job]:
    """The trials without a committed row, and failed ones when asked for; their attempts go on counting.

    `started` are starts that no row counts, since a driver and its workers were killed.
    """
    failed = {row["trial_id"]: row["attempts"] or 0 for row in before.iter_rows(named=True) if row["status"] != "ok"}
    done = before.filter(pl.col("status") == "ok").get_column("trial_id").to_list()
    todo = plan.pending(trials, done, failed, retry_failed)
    return [Job(trial, max([failed.get(trial.id, 0), *started.get(trial.id, ())]) + 1) for trial in todo]


def make_runner(root: str, options: Mapping[str, Any], reporter: Reporter) -> Any:
    """Ray, or a plain loop in this process."""
    if options["local"]:
        from sweep.runs.local import LocalRunner

        return LocalRunner(root, provenance(), None if options["gpus_per_worker"] else "cpu")
    if not options["address"]:  # Ray reads this when it is imported: all of its ports are on the loopback alone
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    from sweep.remote import RayRunner

    return RayRunner(
        root,
        provenance(),
        address=options["address"],
        workers=options["workers"],
        gpus_per_worker=options["gpus_per_worker"],
        notify=reporter.say,
    )


if __name__ == "__main__":
    try:
        app()
    finally:
        undisturbed_from_now_on()
