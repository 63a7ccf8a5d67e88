"""One folder holds numbers of one evaluation, one set of requests, and one version of each model."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calib.settings import SettingsError
from sweep import plan
from sweep.config import apply_override, parse_study
from sweep.folder import check_evaluation
from sweep.results import Results, TrialRows
from sweep.trial import describe

Document = dict[str, Any]


def planned(document: Document, *overrides: str) -> list[plan.Trial]:
    changed = copy.deepcopy(document)
    for override in overrides:
        apply_override(changed, override)
    return plan.expand(parse_study(changed))


def folder_of(document: Document, path: Path, **columns: Any) -> Results:
    store = Results(path)
    for trial in planned(document):
        store.write_trial(TrialRows({**describe(trial), "status": "ok", **columns}))
    store.write_text("study.yaml", parse_study(document).to_yaml())
    return store


@pytest.fixture
def refusal(document: Document, other_model: Path, tmp_path: Path) -> Callable[..., str]:
    """What is said of the trials of another model beside those of the study; nothing when they are let in."""

    def call(*overrides: str, **columns: Any) -> str:
        store = folder_of(document, tmp_path / "results", **columns)
        trials = planned(document, f"models=[{other_model}]", *overrides)
        try:
            check_evaluation(trials, store.read("trials"), store)
        except SettingsError as error:
            return str(error)
        return ""

    return call


def test_another_evaluation_is_refused_also_for_a_new_model(refusal: Callable[..., str]) -> None:
    assert refusal() == ""
    message = refusal("evaluation.limit=3", "evaluation.divergence=false")
    assert "6 trials there have another evaluation: limit was 6 and is 3, divergence was True and is False;" in message


def test_changed_data_of_a_task_is_another_evaluation(
    refusal: Callable[..., str], document: Document, tmp_path: Path
) -> None:
    tasks = Path(shutil.copytree(document["evaluation"]["task_path"], tmp_path / "tasks"))
    assert refusal(f"evaluation.task_path={tasks}") == ""
    (tasks / "tiny_a.jsonl").write_text((tasks / "tiny_b.jsonl").read_text())
    assert "its settings are the same, but a task's files" in refusal(f"evaluation.task_path={tasks}")


def test_rows_that_do_not_state_their_evaluation_are_let_through(refusal: Callable[..., str]) -> None:
    assert refusal("evaluation.limit=3", evaluation_id=None) == ""
