"""The pages of docs/findings say what their data say, and the data are of the trials of the studies that they name."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from benchmarks.findings import __main__ as findings
from benchmarks.findings.evidence import DATA
from sweep import plan
from sweep.config import load_study

STUDIES = Path(__file__).parent.parent / "benchmarks" / "studies"


def test_pages_are_what_the_data_say() -> None:
    for name, make in findings.PAGES.items():
        page = make()
        assert (findings.FOLDER / f"{name}.md").read_text(encoding="utf-8") == page.markdown(), name
        assert (findings.FOLDER / "figures" / f"{name}.svg").is_file()


def test_a_page_that_says_something_else_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "FOLDER", tmp_path)
    app = findings.typer.Typer()
    app.command()(findings.main)
    assert CliRunner().invoke(app, ["windows"]).exit_code == 0
    assert CliRunner().invoke(app, ["windows", "--check"]).exit_code == 0
    page = tmp_path / "windows.md"
    page.write_text(page.read_text(encoding="utf-8").replace("0", "1", 1), encoding="utf-8")
    result = CliRunner().invoke(app, ["windows", "--check"])
    assert result.exit_code == 1 and "windows.md" in result.output


@pytest.mark.parametrize("name", ["sources_reference_5m", "sources_reference_17m"])
def test_data_are_of_the_trials_of_their_study(name: str) -> None:
    planned = {trial.id for trial in plan.expand(load_study(str(STUDIES / f"{name}.yaml"), []))}
    assert set(pl.read_parquet(DATA / f"{name}.parquet")["trial_id"]) == planned
