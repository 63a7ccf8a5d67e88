"""`calibsweep calib`: bundled models by name, and sets that a model writes or chooses."""

from __future__ import annotations

from pathlib import Path

import pytest

from calib.export import read_set
from calibsweep.sets import main
from sweep.models import resolve_model

BUILD = ("--tokenizer", "reference-2m", "--nsamples", "2", "--seqlen", "16", "--separator", "none")
WRITTEN = "{source: self_generated, documents: 3, length: 24, keep: 1.0}"
CHOSEN = "{by: least_perplexity, pool: 2}"


@pytest.mark.parametrize("asked", [("--source", WRITTEN), ("--source", "books", "--select", CHOSEN)])
def test_a_set_that_needs_a_model_is_built_and_verified_with_it(
    asked: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "set.parquet")
    assert main(["build", *asked, *BUILD, "--out", file]) == 2
    assert "no model is at hand here (`calibsweep calib` takes --model)" in capsys.readouterr().err
    assert main(["build", *asked, *BUILD, "--out", file, "--model", "reference-2m"]) == 0
    built = read_set(file)
    assert built.id == built.spec.id(built.tokenizer_id, resolve_model("reference-2m", "m").fingerprint)
    assert main(["verify", file, "--tokenizer", "reference-2m"]) == 2
    assert main(["verify", file, "--tokenizer", "reference-2m", "--model", "reference-2m"]) == 0
    assert "the source gives these tokens" in capsys.readouterr().out


def test_a_model_that_there_is_not_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "set.parquet")
    assert main(["build", "--source", WRITTEN, *BUILD, "--out", file, "--model", "reference-3m"]) == 2
    assert "--model" in capsys.readouterr().err
