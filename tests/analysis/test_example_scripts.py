"""The examples that people copy run as they stand, and stay short."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = ("which_source.py", "own_figure.py", "own_table.py")


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_runs_on_a_results_folder_and_has_at_most_forty_lines(
    name: str, simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) <= 40
    monkeypatch.setattr(sys, "argv", [name, str(simulated), str(tmp_path / "figure")])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert "small" in capsys.readouterr().out or (tmp_path / "figure.png").exists()


def test_notebook_runs_from_top_to_bottom(simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "reference").symlink_to(simulated)
    monkeypatch.chdir(tmp_path / "examples")
    names: dict[str, object] = {}
    notebook = json.loads((EXAMPLES / "analysis.ipynb").read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            assert cell["outputs"] == []
    assert names["answer"]
