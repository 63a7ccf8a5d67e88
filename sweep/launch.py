"""`python -m sweep.launch [STUDY]`: plan a study, run what is missing, say where the time went.

Flags say where and how to run, never what: everything that can change a number stands in the study file (or in
`--set`, which edits it). Whatever can be known to be wrong with the study is found before a trial starts. `--help` says
what the exit codes mean.
"""

from __future__ import annotations

import sweep.shadows  # noqa: F401  # isort: skip  # first: what follows must be ours

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any

import typer
import typer.core

from calib.settings import SettingsError, error_lines, shown
from sweep import plan
from sweep.config import Study, load_study
from sweep.remote import RayRunner
from sweep.results import Results, ResultsError
from sweep.runs.bounds import bounded_exit
from sweep.runs.connection import dashboard_line, free_port
from sweep.runs.interrupts import interruptible
from sweep.runs.lastword import gone, last_word
from sweep.runs.local import LocalRunner
from sweep.runs.machine import uncompiled_line
from sweep.runs.preview import show_plan
from sweep.runs.progress import Account, Price, Reporter
from sweep.runs.provenance import provenance
from sweep.runs.runner import Runner, RunOptions
from sweep.runs.session import Ending, find_results, hold, open_session, run
from sweep.storage.lease import Lease

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
EXIT_CODES = {Ending.COMPLETE: OK, Ending.INCOMPLETE: FAILED, Ending.INTERRUPTED: INTERRUPTED}


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
        list[str] | None,
        typer.Option("--set", metavar="<str>", help="Change the study: key=value, such as calibration.sets=2."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the trials and an estimate, and stop.")] = False,
    local: Annotated[bool, typer.Option("--local", help="Run in this process, without Ray.")] = False,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster (auto, or host:port).")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again.")] = False,
    workers: Annotated[
        int | None, typer.Option(help="Workers [default: as many as there is room for; a GPU cluster grows].")
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(help="GPUs of a worker; 0.5 lets two share one, 0 runs on CPUs [default: by the model]."),
    ] = None,
    price: Annotated[float | None, typer.Option(help="Of a GPU hour, to show what a run costs.")] = None,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Start Ray here with its dashboard.")] = False,
) -> None:
    """Run a study: compress and evaluate every model with every calibration set, and write the results as Parquet.

    What is done already is not run again, so after an interruption give the same command.

    Exit codes: 0 all trials are there, 1 some failed or the cluster is gone, 2 the study, the flags or the machines
    cannot be used as asked, 130 interrupted.
    """
    reporter, account = Reporter(price=Price(price)), Account()
    try:
        with interruptible(), ExitStack() as held:
            with account("planning"):
                options = RunOptions(local, address, workers, gpus_per_worker, free_port() if dashboard else None)
                chosen, trials = plan_study(study, set_ or [])
                store = find_results(f"results/{chosen.name}" if results is None else results)
                lease = None if dry_run else held_folder(store, held)
                session = open_session(
                    chosen, trials, store, reporter.say, write=not dry_run, retry_failed=retry_failed
                )
            if lease is None:
                show_plan(reporter.console, chosen, trials, session.before, session.jobs, options)
                code = OK
            else:
                if options.dashboard is not None:
                    reporter.say(dashboard_line(options.dashboard))
                if not options.local and (line := uncompiled_line(typer)):
                    reporter.say(line)
                runner = partial(make_runner, options=options, reporter=reporter)
                code = EXIT_CODES[run(session, runner, lease, reporter, account)]
    except (SettingsError, ResultsError) as error:
        report(error)
        code = BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, and the same command goes on", file=sys.stderr)
        code = INTERRUPTED
    raise typer.Exit(code)


def plan_study(study: str, overrides: Sequence[str]) -> tuple[Study, list[plan.Trial]]:
    """The study and its trials. Raises SettingsError for whatever can be known to be wrong with them."""
    try:
        chosen = load_study(study, overrides)
        plan.check(chosen)
        return chosen, plan.expand(chosen)
    except OSError as error:  # a name that no disk takes, a folder that may not be looked into, ...
        raise SettingsError(f"{shown(error.filename or study)} cannot be used: {error.strerror or error}") from None


def held_folder(store: Results, held: ExitStack) -> Lease:
    """What keeps other launches out, and says a last word should this one be killed, until `held` closes."""
    lease = hold(store, held)
    held.enter_context(last_word(gone(store.root)))
    return lease


def make_runner(root: str, options: RunOptions, reporter: Reporter) -> Runner:
    """Ray, or a plain loop in this process."""
    runner: LocalRunner | RayRunner
    if options.local:
        runner = LocalRunner(root, provenance(), "cpu" if options.on_cpus else None)
    else:
        runner = RayRunner(root, provenance(), options, reporter.say)
    runner.on_phase = reporter.phase
    return runner


def report(error: Exception) -> None:
    """Print what is wrong, one printable line for each thing."""
    for line in error_lines(error):
        print(f"error: {line}", file=sys.stderr)


if __name__ == "__main__":
    bounded_exit(app)
