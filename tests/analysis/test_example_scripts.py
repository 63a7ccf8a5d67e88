"""The examples that people copy run as they stand, and stay short."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sweep.adviser.advice import prepare
from sweep.adviser.question import Question
from sweep.runs.runner import RunOptions

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


@pytest.mark.parametrize("checkpoint", [[], ["checkpoint"]], ids=["answer", "checkpoint"])
def test_which_text_asks_a_question_that_can_be_answered_and_ships_the_trial_that_the_answer_names(
    checkpoint: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to the trials: what it asks is prepared as `advise` does, its texts read and checked."""
    texts = [json.dumps({"text": f"ticket {n}: the printer of room {n} is on fire again. " * 40}) for n in range(600)]
    (tmp_path / "my.jsonl").write_text("\n".join(texts))
    shipped: list[list[str]] = []

    def answered(
        model: str, method: object, candidates: list[str], *, results: str, local: bool, **asked: object
    ) -> Any:
        prepare(Question(model, method, candidates, **asked), results, RunOptions(local))  # type: ignore[arg-type]
        return SimpleNamespace(trial="0123", __str__=lambda: "use my")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sweep.advise.advise", answered)
    monkeypatch.setattr("sweep.export.main", lambda given: shipped.append(given) or 0)
    monkeypatch.setattr(sys, "argv", ["which_text.py", "reference-2m", "my.jsonl", "results/mine", *checkpoint])
    with pytest.raises(SystemExit) if checkpoint else nullcontext() as ended:
        runpy.run_path(str(EXAMPLES / "which_text.py"), run_name="__main__")
    if checkpoint:
        assert ended is not None and ended.value.code == 0
    assert shipped == [["0123", "--results", "results/mine", "--out", "checkpoint"]] * len(checkpoint)


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


def test_recipe_for_github_asks_with_commands_that_work(tmp_path: Path) -> None:
    """What its step `Ask` runs, up to the trials: the study is written and planned."""
    recipe = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text())
    steps = {step.get("name"): step for step in recipe["jobs"]["which-text"]["steps"]}
    (tmp_path / "my-model").symlink_to(EXAMPLES.parent / "sweep" / "reference" / "models" / "reference-2m")
    lines = [json.dumps({"text": f"ticket {n}: the printer of room {n} is on fire again. " * 40}) for n in range(60)]
    (tmp_path / "tickets.jsonl").write_text("\n".join(lines))
    here = f"calibsweep() {{ '{sys.executable}' -m calibsweep \"$@\"; }}\n"
    asked = steps["Ask"]["run"].replace(
        "calibsweep run mine.yaml --local", "calibsweep run mine.yaml --local --dry-run"
    )
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    done = subprocess.run(
        ["bash", "-ec", here + asked], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" already there, ") == 2, done.stdout  # the plan, and the run as it would be
    assert "calibsweep summary" in steps["Answer"]["run"]
