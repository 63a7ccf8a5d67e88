"""What the sections of the page share: who makes them, tables that carry their own query, models in their order.

Words of this room: a section *quotes* tables of an `Evidence`; a table's *query* is the code that gives its frame, the
import of a function and its call; *shown* is what a person reads of a frame; *folded* tables open at a click.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import polars as pl

from analysis.evidence import Evidence
from analysis.frames import Study
from analysis.measures import MEASURES
from analysis.page.html import Section, Table


@dataclass(frozen=True)
class SectionMaker:
    """How a section is made, and whether it needs single examples: samples/ take as long as everything else."""

    make: Callable[[Evidence], Section]
    reads_samples: bool = False


def each_model(study: Study) -> Iterator[str]:
    """Models from small to large."""
    yield from study.trials.sort("parameters", "model")["model"].unique(maintain_order=True)


def query_of(function: Callable[..., pl.DataFrame], *arguments: str) -> str:
    """The two lines that give a table of `study`: the import of its function, and the call."""
    called = ", ".join(["study", *(f'"{argument}"' for argument in arguments)])
    return f"from {function.__module__} import {function.__name__}\n{function.__name__}({called})"


def table(
    frame: pl.DataFrame,
    function: Callable[..., pl.DataFrame],
    *arguments: str,
    id: str,
    title: str,
    caption: str,
    shown: pl.DataFrame | None = None,
    folded: bool = False,
) -> Table:
    """The table of a frame that `function(study, *arguments)` gives, with that query."""
    return Table(f"table-{id}", title, caption, frame, query_of(function, *arguments), shown, folded)


def folded_table(
    frame: pl.DataFrame,
    function: Callable[..., pl.DataFrame],
    measure: str | None,
    stem: str,
    title: str,
    caption: str,
) -> list[Table]:
    """A folded table, of one measure or of none; nothing where the frame is empty."""
    if frame.is_empty():
        return []
    if measure is None:
        return [table(frame, function, id=stem, title=title, caption=caption, folded=True)]
    heading = f"{MEASURES[measure].title}: {title}"
    return [table(frame, function, measure, id=f"{stem}-{measure}", title=heading, caption=caption, folded=True)]
