"""What people type: names that exist, names that do not, and presets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from calib.settings import SettingsError, parse
from sweep.evaluation.settings import EvaluationSettings


def test_an_unknown_task_gets_a_suggestion() -> None:
    with pytest.raises(
        SettingsError, match=r"evaluation\.tasks\[1\]: unknown task 'hellaswg', did you mean 'hellaswag'"
    ):
        EvaluationSettings(tasks=["arc_easy", "hellaswg"]).check()


def test_an_unknown_local_task_gets_a_suggestion(task_path: Path) -> None:
    settings = EvaluationSettings(tasks=["tiny_choise"], task_path=str(task_path))
    with pytest.raises(SettingsError, match="did you mean 'tiny_choice'"):
        settings.check()


def test_a_missing_task_folder_is_named() -> None:
    with pytest.raises(SettingsError, match=r"evaluation\.task_path: no folder '/nowhere'"):
        EvaluationSettings(tasks=["arc_easy"], task_path="/nowhere").check()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"evaluation\.tasks: nothing to evaluate"),
        ({"tasks": ["arc_easy"], "limt": 3}, r"evaluation\.limt: unknown key 'limt', did you mean 'limit'"),
        ({"tasks": ["arc_easy"], "limit": 0}, r"evaluation\.limit: expected at least 1, got 0"),
        ({"heldout": ["books"], "heldout_seqlen": 1}, r"evaluation\.heldout_seqlen: expected at least 2, got 1"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse(EvaluationSettings, values, "evaluation")


def test_an_unknown_perturbation_is_refused() -> None:
    settings = EvaluationSettings(tasks=["arc_easy"], perturbations=[{"perturbation": "tpyos"}])
    with pytest.raises(SettingsError, match=r"evaluation\.perturbations\[0\]\.perturbation"):
        settings.check()


def test_an_unknown_heldout_domain_is_refused() -> None:
    with pytest.raises(SettingsError, match="bookz"):
        EvaluationSettings(heldout=["bookz"]).check()


def test_checking_settings_needs_no_heavy_library(task_path: Path) -> None:
    script = (
        "import sys\n"
        "from sweep.evaluation.settings import EvaluationSettings\n"
        f"EvaluationSettings(tasks=['tiny_group', 'hellaswag'], task_path={str(task_path)!r}).check()\n"
        "heavy = {'torch', 'transformers', 'datasets', 'lm_eval', 'ray'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
