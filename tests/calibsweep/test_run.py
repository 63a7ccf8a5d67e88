"""`calibsweep run`: a launch, then what it found."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibsweep.console import BAD_INPUT, OK, main
from calibsweep.run import results_of

STUDY = """
study: small
models: [reference-2m]
methods: [{method: gptq, bits: 3, group_size: 32}]
calibration: {source: [books, code], sets: 2, nsamples: 2, seqlen: 64}
evaluation: {heldout: [books], heldout_windows: 2, heldout_seqlen: 64}
"""


def test_results_lie_where_the_launch_puts_them() -> None:
    assert results_of({"results": "here", "study": "reference", "set_": None}) == "here"
    assert results_of({"results": None, "study": "reference", "set_": ["study=other"]}) == "results/other"


def test_a_run_ends_with_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(STUDY)
    assert main(["run", "small.yaml", "--local", "--gpus-per-worker", "0"]) == OK
    printed = capfd.readouterr().out
    assert "Which calibration data? small: 5 trials" in printed
    assert "calibsweep recommend results/small" in printed
    assert Path("results/small/report.html").is_file()


def test_a_study_that_cannot_run_has_no_answer(capfd) -> None:  # type: ignore[no-untyped-def]
    assert main(["run", "nothing"]) == BAD_INPUT
    assert "Which calibration data?" not in capfd.readouterr().out


def test_a_dry_run_has_no_answer(capfd) -> None:  # type: ignore[no-untyped-def]
    assert main(["run", "reference", "--dry-run"]) == OK
    assert "Which calibration data?" not in capfd.readouterr().out
