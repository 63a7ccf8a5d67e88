"""A question beside the results of earlier ones in the same folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from calib.settings import SettingsError
from sweep.adviser.advice import prepare
from sweep.adviser.candidates import UNIFORM
from sweep.adviser.question import Question
from sweep.runs.runner import RunOptions
from tests.sweep.adviser.paper import PaperRunner, asked, conduct, losses
from tests.sweep.conftest import write_documents

LOCAL = RunOptions(local=True)
LEVELS = {"a": 20.0, "b": 14.0, "c": 25.0, UNIFORM: 17.0, f"{UNIFORM} of 3": 18.0}


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    return [write_documents(tmp_path / f"{name}.jsonl", seed=seed) for seed, name in enumerate("abc")]


@pytest.fixture
def question(tiny_model: Path, texts: list[Path]) -> Question:
    return asked(tiny_model, texts[:2], share=1.0, windows=2)


def answer(question: Question, folder: Path) -> list[str]:
    """Ask in the folder; returns the ids of the trials that ran."""
    runner = PaperRunner(str(folder), losses(LEVELS))
    conduct(prepare(question, str(folder), LOCAL), runner)
    return runner.ran


def test_a_candidate_more_is_asked_beside_what_is_there(question: Question, texts: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first = answer(question, folder)
    wider = replace(question, candidates=[*map(str, texts)])
    assert prepare(wider, str(folder), LOCAL).design.names == ["a", "b", "c", f"{UNIFORM} of 3"]
    second = answer(wider, folder)
    assert second and not set(first) & set(second)
    assert answer(wider, folder) == answer(question, folder) == []  # each question knows its own mixture again
    assert prepare(question, str(folder), LOCAL).design.names == ["a", "b", UNIFORM]


def test_what_cannot_stand_beside_earlier_results_is_said_before_anything_runs(
    question: Question, tmp_path: Path, texts: list[Path]
) -> None:
    folder = tmp_path / "out"
    answer(question, folder)
    with pytest.raises(SettingsError, match="trials there have another evaluation: heldout_windows was 2 and is 3"):
        prepare(replace(question, windows=3), str(folder), LOCAL)
    write_documents(texts[1], seed=9)
    with pytest.raises(SettingsError, match=r"other files or other code \(such as .*, GPTQ 3-bit g16, b set \d\)"):
        prepare(replace(question, uniform=False), str(folder), LOCAL)
