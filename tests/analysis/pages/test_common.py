"""A table carries the query that gives it, and every file of the room is a section of the page."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import polars as pl
import pytest

from analysis import pages
from analysis.cells import range_table, task_table
from analysis.frames import Study, load
from analysis.pages.common import each_model, folded_table, query_of, table
from analysis.report import SECTIONS


@pytest.fixture(scope="module")
def study(simulated: Path) -> Study:
    return load(str(simulated))


def test_a_query_is_the_import_of_the_function_and_its_call() -> None:
    assert query_of(task_table) == "from analysis.cells import task_table\ntask_table(study)"
    expected = 'from analysis.cells import range_table\nrange_table(study, "accuracy", "piqa")'
    assert query_of(range_table, "accuracy", "piqa") == expected


def test_the_query_of_a_table_gives_its_frame(study: Study) -> None:
    made = table(range_table(study, "accuracy"), range_table, "accuracy", id="r", title="Range", caption="")
    names: dict[str, object] = {"study": study}
    imported, called = made.query.split("\n")
    exec(imported, names)
    value = eval(called, names)
    assert isinstance(value, pl.DataFrame)
    assert value.equals(made.frame)


def test_a_folded_table_names_its_measure_and_an_empty_one_is_left_out(study: Study) -> None:
    frame = range_table(study, "accuracy")
    (made,) = folded_table(frame, range_table, "accuracy", "ranges", "all sets", "caption")
    assert (made.id, made.title, made.folded) == ("table-ranges-accuracy", "Accuracy: all sets", True)
    assert folded_table(frame.clear(), range_table, "accuracy", "ranges", "all sets", "caption") == []


def test_models_go_from_small_to_large(study: Study) -> None:
    assert list(each_model(study)) == ["small", "large"]


def test_every_file_of_the_room_is_a_section_of_the_page() -> None:
    files = {info.name for info in pkgutil.iter_modules(pages.__path__)} - {"common", "appendix"}
    makers = {importlib.import_module(f"analysis.pages.{name}").section for name in files}
    assert makers == {maker.make for maker in SECTIONS}
