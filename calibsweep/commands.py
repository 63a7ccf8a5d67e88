"""The table of commands: a name, what it does, and the module that does it, imported when it is asked for.

Every command is the application of its own module, so `calibsweep report` and `python -m analysis.report` are the same.
A command whose module is not installed is neither shown nor taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

BOUNDS = "sweep.runs.bounds"  # ends a process that something of Ray or of the interpreter would hold


@dataclass(frozen=True)
class Command:
    """`module:attribute` takes the arguments: a typer application, a function that typer makes one of, or a `main`.

    given: arguments that stand before those that people type. plain: it is a `main(arguments) -> exit code`.
    needs: the module without which the command is not there; its own by default.
    """

    name: str
    about: str
    module: str
    attribute: str = "main"
    given: tuple[str, ...] = ()
    plain: bool = False
    needs: str = ""

    @property
    def installed(self) -> bool:
        return find_spec(self.needs or self.module) is not None


GROUPS: dict[str, tuple[Command, ...]] = {
    "Measure": (
        Command("init", "write a commented study file for your own model, text and tasks", "calibsweep.init"),
        Command("plan", "print a study's trials and what they cost, and stop", "sweep.launch", "app", ("--dry-run",)),
        Command("run", "run a study, or go on with it, and say what it found", "calibsweep.run", plain=True),
        Command("status", "say how far a study is", "calibsweep.status", plain=True),
    ),
    "Read": (
        Command("summary", "the answer on one screen: which text, how sure, what next", "analysis.summary"),
        Command("recommend", "which source for one model, in three sentences", "analysis.recommend"),
        Command("report", "the whole study as one page with figures", "analysis.report"),
        Command("table", "one table as Markdown, LaTeX or CSV", "analysis.tables"),
        Command("figures", "the figures of a study for a paper", "analysis.paper"),
    ),
    "Ship": (
        Command("advise", "from a model and text to an answer, with as few trials as it takes", "sweep.advise", "app"),
        Command("compress", "compress one model with one text", "sweep.compress", "app"),
        Command("export", "the model of a trial as a folder for vLLM and others", "calibsweep.export", plain=True),
    ),
    "Look up": (
        Command("ls", "list methods, sources, tasks, studies or models", "calibsweep.listing"),
        Command("calib", "build, show, compare and verify calibration sets", "calibsweep.sets", plain=True),
        Command("schema", "the JSON schema of a study file, for editors", "calibsweep.schema"),
        Command("completion", "the script that completes commands in your shell", "calibsweep.completion"),
    ),
}


def commands() -> dict[str, Command]:
    """Those that are installed, by name."""
    return {entry.name: entry for group in GROUPS.values() for entry in group if entry.installed}
