from __future__ import annotations

from pathlib import Path

import pytest

from sweep.evaluation.tasks import lmeval
from sweep.evaluation.tasks.names import REFERENCE_TASKS, builtin_folders, trusted


@pytest.mark.parametrize(
    ("name", "folder"),
    [("hellaswag", "hellaswag"), ("mmlu", "mmlu"), ("mmlu_anatomy", "mmlu"), ("rte", "glue"), ("ai2_arc", "arc")],
)
def test_tasks_groups_and_tags_are_found_in_their_folders(name: str, folder: str) -> None:
    assert {found.name for found in builtin_folders(name)} == {folder}


def test_what_comes_with_lm_eval_and_ours_is_trusted(tmp_path: Path) -> None:
    assert trusted(REFERENCE_TASKS / "reference.yaml")
    assert trusted(lmeval.tasks_folder() / "piqa" / "piqa.yaml")
    assert not trusted(tmp_path / "reference.yaml")
    assert not trusted(None)
