"""`calibsweep init`: a commented study file for one's own model, text and tasks, and what still keeps it from running.

The file is the template beside this one with its blanks filled in; everything in it may be edited, and what is wrong
with an edit is said by `calibsweep plan`. The schema for editors is written next to it.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
import yaml

from calib.files import TEXT, text_column
from calib.settings import SettingsError
from calib.yamltext import read_yaml
from calibsweep.given import tasks_of
from calibsweep.schema import study_schema
from sweep import plan
from sweep.config import parse_study

TEMPLATE = Path(__file__).with_name("template.yaml")
SCHEMA_NAME = ".study.schema.json"
BUNDLED_TEXT = ("books", "code", "encyclopedia", "web_docs")  # of different kinds, to stand beside one's own

BUNDLED_TASKS = ("reference_blimp", "reference_lambada")  # with few examples each: seconds a trial on one core


def study_text(
    name: str, model: str, texts: list[str], column: str | None, heldout: str | None, given: list[str]
) -> str:
    """The study file. `column`: of the texts, None: as `text_column` finds it; `given`: tasks, or their files.

    Raises SettingsError for files of tasks that are none.
    """
    tasks, folder = tasks_of(given)
    held = [{**_file(heldout, column), "label": "heldout"}] if heldout else ["books", "code"]
    blanks = {
        "SCHEMA": SCHEMA_NAME,
        "NAME": name,
        "MODEL": _flow(model),
        "SOURCES": "\n".join(f"    - {_flow(entry)}" for entry in [*(_file(t, column) for t in texts), *BUNDLED_TEXT]),
        "TASK_PATH": f"  task_path: {_flow(folder)}\n" if folder else "",
        "TASKS": _flow(tasks or list(BUNDLED_TASKS)),
        "LIMIT": "100" if tasks else "12",
        "HELDOUT": _flow(held),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for blank, value in blanks.items():
        text = text.replace(f"<{blank}>", value)
    return text


def _file(path: str, column: str | None) -> dict[str, str]:
    """The source of a file."""
    found = column or text_column(path)
    return {"source": "file", "path": path, **({"column": found} if found != TEXT else {})}


def _flow(value: object) -> str:
    """A value on one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def main(
    file: Annotated[Path, typer.Argument(help="The study file to write.")] = Path("study.yaml"),
    model: Annotated[str, typer.Option(help="A folder, a GGUF file, a hub id, or a bundled model.")] = "reference-2m",
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="<path>", help="Your text: .jsonl, .parquet or .txt; may be given again."),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(help="Where a record of the text has its text [default: text, or the only column with text]."),
    ] = None,
    heldout: Annotated[str | None, typer.Option(help="Text to test on that nothing is calibrated on.")] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(metavar="<str>", help="An lm-eval task, or the YAML file of your own; may be given again."),
    ] = None,
) -> None:
    """Write a commented study file for your own model, text and tasks.

    Exit codes: 0 written, 1 written and to be edited before it runs, 2 not written: the file is there already, or a
    name is none.
    """
    try:
        if file.exists():
            raise SettingsError(f"{file} is there already; name another file")
        written = study_text(file.stem, model, text or [], column, heldout, tasks or [])
        study = parse_study(read_yaml(written))
    except SettingsError as error:
        typer.echo("\n".join(f"error: {line}" for line in error.lines), err=True)
        raise typer.Exit(2) from None
    try:
        file.write_text(written, encoding="utf-8")
        file.with_name(SCHEMA_NAME).write_text(json.dumps(study_schema(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        typer.echo(f"error: {file} cannot be written: {error.strerror}", err=True)
        raise typer.Exit(2) from None
    name = shlex.quote(str(file))
    try:
        plan.check(study)
    except SettingsError as error:  # too little text for its windows, a task that is not there: it can be edited
        faults = "\n".join(f"  {line}" for line in error.lines)
        typer.echo(f"{file} written, but it cannot run yet:\n{faults}\nEdit it, then: calibsweep plan {name}", err=True)
        raise typer.Exit(1) from None
    if text and not heldout:
        typer.echo("Perplexity is of bundled books and code; --heldout FILE adds text of yours that is not in --text.")
    typer.echo(f"{file} written. Next: calibsweep plan {name}; calibsweep run {name}")
