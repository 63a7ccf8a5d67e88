"""The table of a recommendation in a terminal of 80 columns: probabilities in percent, no number and no name cut."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

from analysis.page.render import number, percent

COLUMNS = ("n", "mean", "sd", "95 % interval", "P best", "P best,\none set", "regret")
WIDTH = 80  # of a terminal


def terminal_table(table: pl.DataFrame) -> RichTable:
    """The table of `analysis.recommend`, best first, without columns that say nothing of any source; a name that would
    make it too wide is continued below."""
    columns = list(zip(("source", *COLUMNS), *(_cells(row) for row in table.iter_rows(named=True)), strict=True))
    columns = [column for column in columns if any(column[1:])]
    shown = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    longest = [max(len(part) for text in column for part in text.split("\n")) for column in columns]
    left = WIDTH - 3 - sum(longest[1:]) - 2 * (len(columns) - 1)  # three for the edges, two between columns
    shown.add_column("source", overflow="fold", width=min(longest[0], max(left, len("source"))))
    for column, width in zip(columns[1:], longest[1:], strict=True):
        shown.add_column(column[0], justify="right", no_wrap=True, min_width=width)
    for row in list(zip(*columns, strict=True))[1:]:
        shown.add_row(*row)
    return shown


def _cells(row: Mapping[str, object]) -> tuple[str, ...]:
    """What is shown of a source, under `source` and `COLUMNS`."""
    low, high = (_cell(name, row[name]) for name in ("low", "high"))
    before = [_cell(name, row[name]) for name in ("source", "n", "mean", "sd")]
    after = [_cell(name, row[name]) for name in ("p_best", "p_best_single_set", "regret")]
    return (*before, f"{low} to {high}" if low and high else "", *after)


def _cell(name: str, value: object) -> str:
    if isinstance(value, float):
        return (
            percent(value).replace("under ", "<").replace("over ", ">") if name.startswith("p_") else number(value, 3)
        )
    return "" if value is None else str(value)
