"""From the answer to the checkpoint in one command: the recommended source's trial, with the answer on its card."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from analysis.pick import main as pick_main
from calibsweep.export import main

MODEL, LABEL = "reference-2m", "GPTQ 4-bit g16 sym"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study: two methods, two texts with two sets each."""
    from sweep.launch import app

    study: dict[str, Any] = {
        "study": "answered",
        "models": [{"model": MODEL, "dtype": "bfloat16"}],
        "methods": [
            {"method": "gptq", "bits": 4, "group_size": 16, "sym": True, "scale_dtype": "bfloat16"},
            {"method": "wanda"},
        ],
        "calibration": {"source": ["dialogue_qa", "legal"], "sets": 2, "nsamples": 2, "seqlen": 32},
        "evaluation": {"heldout": ["books"], "heldout_windows": 2, "heldout_seqlen": 32},
    }
    folder = tmp_path_factory.mktemp("answered")
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweep.storage.lease.SETTLE", (0.0, 0.0))  # nobody else launches
        done = CliRunner().invoke(app, [str(folder / "study.yaml"), "--local", "--results", str(folder / "results")])
    assert done.exit_code == 0, done.output
    return folder / "results"


def test_the_recommended_trial_is_written_with_the_answer_on_its_card(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    asked = ["--results", str(results), "--model", MODEL, "--method", LABEL]
    assert main(["--best", *asked, "--out", str(out), "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    card = (out / "README.md").read_text()
    sentences = told.splitlines()[:4]
    assert sentences[1].startswith("How sure: ")
    assert sentences[3].startswith("Shipped is set ")
    assert all(" ".join(sentence.split()) in card for sentence in sentences)
    assert told.splitlines()[4].startswith(f"{out}: compressed-tensors, ")


def test_the_two_commands_do_the_same_through_a_pipe(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    pick_main(str(results), MODEL, LABEL)
    answer = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    out = tmp_path / "out"
    assert main(["--best", "-", "--results", str(results), "--out", str(out), "--format", "dense"]) == 0
    assert json.loads(answer)["trial"] in (out / "README.md").read_text()


def test_an_answer_over_several_methods_names_no_model(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--best", "--results", str(results), "--model", MODEL, "--out", str(tmp_path / "out")]
    assert main(asked) == 2
    assert "--method: the answer is over 2 methods; give one: GPTQ 4-bit g16 sym, Wanda" in capsys.readouterr().err
    assert main([*asked, "--method", "gptk"]) == 2
    assert "did you mean 'gptq'" in capsys.readouterr().err


def test_everything_else_is_the_export_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "holds no study with trials" in capsys.readouterr().err
