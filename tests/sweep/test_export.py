"""The command gives a calibration set the id that a sweep gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calib.export import read_set
from sweep import plan
from sweep.config import parse_study
from sweep.export import main

STUDY: dict[str, Any] = {
    "study": "one",
    "models": ["reference-2m"],
    "methods": [{"method": "wanda", "sparsity": 0.5}],
    "calibration": {"source": "dialogue_qa", "sets": [1], "nsamples": 2, "seqlen": 32},
    "evaluation": {"heldout": ["books"], "heldout_windows": 1, "heldout_seqlen": 32},
}


def export(tokenizer: str, out: Path, *more: str) -> int:
    return main(
        [
            *("--source", "dialogue_qa", "--tokenizer", tokenizer, "--out", str(out)),
            *("--nsamples", "2", "--seqlen", "32", "--set", "1", *more),
        ]
    )


def test_a_shipped_model_and_its_folder_give_the_id_of_a_sweep(tmp_path: Path) -> None:
    (trial,) = (trial for trial in plan.expand(parse_study(STUDY)) if trial.spec)
    for tokenizer in ("reference-2m", trial.model.path):
        assert export(tokenizer, tmp_path / "set.parquet") == 0
        built = read_set(tmp_path / "set.parquet")
        assert (built.id, built.tokenizer_id) == (trial.calibration_id, trial.model.tokenizer_id)


def test_separator_and_bos_are_those_of_the_study(tmp_path: Path) -> None:
    grid = {**STUDY["calibration"], "separator": "none", "add_bos": True}
    (trial,) = (trial for trial in plan.expand(parse_study({**STUDY, "calibration": grid})) if trial.spec)
    assert export("reference-2m", tmp_path / "set.json", "--separator", "none", "--add-bos") == 0
    assert read_set(tmp_path / "set.json").id == trial.calibration_id


def test_a_misspelt_model_gets_a_suggestion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export("reference-2n", tmp_path / "set.parquet") == 2
    message = "--tokenizer: there is no tokenizer 'reference-2n', did you mean 'reference-2m'? (give"
    assert message in capsys.readouterr().err
