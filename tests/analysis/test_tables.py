"""Every table has a name, is written in every form, and is refused in one line where it does not exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from analysis import tables
from analysis.chosen import choice_table
from analysis.described import descriptor_correlations, descriptor_table
from analysis.frames import Study, load
from analysis.shared import overlap_table
from calib.settings import SettingsError

EMPTY = (
    "repeats",
    "budget",
    "anchors",
    "choices",
    "descriptors",
    "described",
    "overlap",
    "bytes",
    "confidence",
    "forgetting",
)
"""The simulation has no repeats, seconds, published models, forecasts, worth of answers or texts scored whole; its sets
are drawn in one way and never described."""


@pytest.fixture(scope="module")
def study(simulated: Path) -> Study:
    return load(str(simulated))


@pytest.mark.parametrize("name", sorted(tables.TABLE_FUNCTIONS))
def test_every_table_is_written_in_every_form(study: Study, name: str) -> None:
    frame = tables.table(study, name)
    assert (frame.height > 0) == (name not in EMPTY)
    for write, extra in ((tables.markdown, 2), (tables.latex, 6), (tables.csv, 1)):
        text = write(frame)
        assert len(text.splitlines()) == frame.height + extra
        if write is tables.latex:
            assert "_" not in text.replace(r"\_", "")


def test_tables_about_the_calibration_sets_have_names() -> None:
    """Those of the report can be had in the terminal as well."""
    shown = {choice_table, descriptor_table, descriptor_correlations, overlap_table}
    assert shown <= set(tables.TABLE_FUNCTIONS.values())


def test_a_measure_without_single_examples_has_no_components(study: Study) -> None:
    for name in ("components", "budget"):
        with pytest.raises(SettingsError, match="samples/ hold no examples of 'perplexity_increase'"):
            tables.table(study, name, "perplexity_increase")


def test_a_wrong_name_gets_a_suggestion(study: Study) -> None:
    with pytest.raises(SettingsError, match="unknown table 'sorce', did you mean 'source'"):
        tables.table(study, "sorce")
    with pytest.raises(SettingsError, match="no 'acuracy', did you mean 'accuracy'"):
        tables.table(study, "source", "acuracy")
    with pytest.raises(SettingsError, match="no 'pica' with measure 'accuracy', did you mean 'piqa'"):
        tables.table(study, "source", "accuracy", "pica")


def test_command_prints_a_table_and_exits_2_on_a_wrong_name(simulated: Path) -> None:
    good = run(str(simulated), "ranges", "--format", "csv")
    assert good.returncode == 0
    assert good.stdout.startswith("model,parameters,method")
    bad = run(str(simulated), "range")
    assert bad.returncode == 2
    assert "did you mean 'ranges'" in bad.stderr


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "analysis.tables", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_lists_the_names_as_they_are_typed() -> None:
    app = typer.Typer()
    app.command()(tables.main)
    shown = " ".join(CliRunner().invoke(app, ["--help"]).output.replace("│", " ").split())
    assert "summary | source | wide" in shown
