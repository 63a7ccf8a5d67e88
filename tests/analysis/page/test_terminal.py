"""The table of a recommendation: eighty columns, nothing cut."""

from __future__ import annotations

import io

import polars as pl
from rich.console import Console

from analysis.page.terminal import terminal_table


def test_table_fits_eighty_columns_and_names_are_never_cut() -> None:
    name = "a_source_whose_name_is_longer_than_any_that_ships"
    row = {"n": 12, "mean": -14.02, "sd": 0.588, "low": -14.41, "high": -13.65}
    row |= {"p_best": 0.42, "p_best_single_set": 0.996, "regret": 0.147}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal_table(pl.DataFrame([{"source": name, **row}, {"source": "books", **row}])))
    lines = console.export_text().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "".join(line[1:].split(" ")[0] for line in lines).count(name) == 1
    assert sum("-14.4 to -13.7" in line for line in lines) == 2


def test_columns_that_say_nothing_of_any_source_are_left_out() -> None:
    row = {"n": 3, "mean": 1.5, "sd": 0.5, "low": 1.0, "high": 2.0, "p_best": None, "p_best_single_set": None}
    table = pl.DataFrame([{"source": "books", **row, "regret": 0.1}])
    columns = [column.header for column in terminal_table(table).columns]
    assert columns == ["source", "n", "mean", "sd", "95 % interval", "regret"]
