"""What people type: names that exist, names that do not, and presets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from calib.settings import SettingsError, parse
from sweep.evaluation.questions.loading import load_tasks
from sweep.evaluation.questions.perturb import Perturbation
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.tasks.check import check_tasks
from sweep.evaluation.tasks.names import builtin_folders
from sweep.evaluation.tasks.presets import PRESETS, expand_tasks, means_of


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


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_task_of_a_preset_exists_in_lm_eval(preset: str) -> None:
    check_tasks([preset], None, False, "tasks")
    for mean in means_of([preset]):
        assert set(mean.tasks) <= set(expand_tasks([preset]))


@pytest.mark.parametrize(
    ("name", "folder"),
    [("hellaswag", "hellaswag"), ("mmlu", "mmlu"), ("mmlu_anatomy", "mmlu"), ("rte", "glue"), ("ai2_arc", "arc")],
)
def test_tasks_groups_and_tags_are_found_in_their_folders(name: str, folder: str) -> None:
    assert {found.name for found in builtin_folders(name)} == {folder}


def test_paper_a_reports_the_mean_without_storycloze() -> None:
    ten, nine = means_of(["paper_a"])
    assert set(ten.tasks) - set(nine.tasks) == {"storycloze_2016"}
    assert (len(ten.tasks), len(nine.tasks)) == (10, 9)


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


def test_a_task_without_the_split_it_needs_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a b"}\n')
    (tmp_path / "broken.yaml").write_text(
        "task: broken\ndataset_path: json\ndataset_kwargs: {data_files: {train: rows.jsonl}}\n"
        "test_split: test\noutput_type: loglikelihood\ndoc_to_text: a\ndoc_to_target: '{{text}}'\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    with pytest.raises(SettingsError, match=r"task 'broken' .*: test_split: no split 'test'; data_files has train"):
        load_tasks(EvaluationSettings(tasks=["broken"], task_path=str(tmp_path)))


def test_a_task_without_its_data_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text(
        "task: broken\ndataset_path: json\ndataset_kwargs: {data_files: {test: gone.jsonl}}\n"
        "test_split: test\noutput_type: loglikelihood\ndoc_to_text: a\ndoc_to_target: '{{text}}'\n"
    )
    with pytest.raises(
        SettingsError, match=r"task 'broken' .*: dataset_kwargs\.data_files\.test: no file 'gone\.jsonl'"
    ):
        load_tasks(EvaluationSettings(tasks=["broken"], task_path=str(tmp_path)))


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


@pytest.mark.parametrize("kind", ["typos", "casing", "whitespace", "word_drops"])
def test_perturbations_are_seeded_and_grow_with_their_strength(kind: str) -> None:
    text = "The quick brown fox jumps over the lazy dog\nand runs away from the old grey wolf " * 5

    def changed(strength: float, seed: int = 0, key: str = "a/0") -> str:
        return Perturbation.parse({"perturbation": kind, "strength": strength, "seed": seed}, "p").apply(text, key)

    assert changed(0.2) == changed(0.2)
    assert changed(0.2) != text
    assert changed(0.2) != changed(0.2, seed=1)
    assert changed(0.2) != changed(0.2, key="a/1")

    def distance(other: str) -> int:
        import difflib

        return sum(size[2] - size[1] + size[4] - size[3] for size in _edits(difflib, text, other))

    assert distance(changed(0.02)) < distance(changed(0.5))


def _edits(difflib: object, left: str, right: str) -> list[tuple[str, int, int, int, int]]:
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)  # type: ignore[attr-defined]
    return [code for code in matcher.get_opcodes() if code[0] != "equal"]
