"""The console: finds the command, hands it its arguments, and ends in one line where they cannot be read.

Nothing heavy is imported before a command is known, so `--help` answers at once. The working directory is taken off the
import path: a folder `methods/` or `analysis/` of the user's own is no package of ours.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from calibsweep.commands import BOUNDS, GROUPS, Command, commands

DISTRIBUTION = "calibration-sweep"
OK, BAD_INPUT, INTERRUPTED = 0, 2, 130
HOUSE = Path(__file__).resolve().parents[1]  # the folder that holds our packages


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code of the command; 2 for one that there is not, 130 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    only_our_packages()
    if not given or given[0] in ("-h", "--help", "help"):
        print(overview())
        return OK
    if given[0] in ("-V", "--version"):
        print(f"calibsweep {installed_version()}")
        return OK
    known = commands()
    if given[0] not in known:
        close = difflib.get_close_matches(given[0], known, n=1)
        hint = f", did you mean '{close[0]}'?" if close else "; calibsweep --help lists them"
        print(f"error: unknown command {given[0]!r}{hint}", file=sys.stderr)
        return BAD_INPUT
    try:
        return run(known[given[0]], given[1:])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def run(command: Command, arguments: Sequence[str]) -> int:
    """Run a command; returns its exit code."""
    target = getattr(import_module(command.module), command.attribute)
    given = [*command.given, *arguments]
    if command.plain:
        try:
            return int(target(given) or OK)
        except SystemExit as ended:  # of argparse, after help or an error
            return int(ended.code or OK)
    app = application(target)
    if command.given:  # it does a part of what the application says of itself
        app.help = f"{command.about[0].upper()}{command.about[1:]}."
    return answer(app, command.name, given)


def application(target: Any) -> Any:
    """The application of a module, or of a function that `typer.run` would run; all with one style of help."""
    import typer

    if isinstance(target, typer.Typer):
        app = target
    else:
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command()(target)
    return typer.main.get_command(app)


def answer(command: Any, name: str, arguments: Sequence[str]) -> int:
    """Run an application; flags that cannot be read end in one line, as everything else that is wrong does."""
    import typer

    usage_error: Any = typer.BadParameter.__mro__[1]  # of click, which newer versions of typer bring along
    try:
        return int(command.main(list(arguments), prog_name=f"calibsweep {name}", standalone_mode=False) or OK)
    except typer.Abort:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except usage_error as error:
        reason = " ".join(error.format_message().split()).rstrip(".")
        print(f"error: {reason}; calibsweep {name} --help lists all flags", file=sys.stderr)
        return BAD_INPUT


def overview() -> str:
    """What `--help` prints."""
    known = commands()
    lines = ["Usage: calibsweep COMMAND ...", "", "Which calibration data, how many windows, and how sure can you be?"]
    for title, group in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {entry.name:<11} {entry.about}" for entry in group if entry.name in known]
    lines += ["", "calibsweep COMMAND --help says what a command takes; calibsweep --version, which release this is."]
    return "\n".join(lines)


def installed_version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "(not installed; run from its sources)"


def only_our_packages() -> None:
    """Take the working directory off the path of imports, here and in the processes to come.

    Python puts it there for `python -m`; it stays where it is the house itself.
    """
    here = Path.cwd()
    if here != HOUSE:
        sys.path[:] = [entry for entry in sys.path if entry and Path(entry).resolve() != here]
        os.environ["PYTHONSAFEPATH"] = "1"


def take_our_packages() -> None:
    """Load our packages, so that what comes onto the path later cannot take their place."""
    only_our_packages()
    for name in ("calib", "methods", "sweep", "analysis"):
        import_module(name)


def entry(runner: Callable[[], int] = main) -> None:
    """The console script."""
    only_our_packages()
    import_module(BOUNDS).bounded_exit(lambda: sys.exit(runner()))
