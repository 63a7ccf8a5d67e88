from __future__ import annotations

from pathlib import Path

import pytest

from calib.settings import SettingsError
from sweep.evaluation.questions.loading import load_tasks
from sweep.evaluation.settings import EvaluationSettings


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


@pytest.mark.parametrize("asked", [["helpdesk", "triage"], ["triage", "helpdesk"]])
def test_a_task_that_is_asked_for_twice_is_told_with_both_names_that_ask_for_it(
    asked: list[str], tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a b"}\n')
    (tmp_path / "triage.yaml").write_text(
        "task: triage\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n"
        "test_split: test\noutput_type: loglikelihood\ndoc_to_text: a\ndoc_to_target: '{{text}}'\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    (tmp_path / "helpdesk.yaml").write_text("group: helpdesk\ntask: [triage]\n")
    first, second = asked
    with pytest.raises(
        SettingsError, match=f"'triage' is asked for twice, the first time by '{first}', the second time by '{second}'"
    ):
        load_tasks(EvaluationSettings(tasks=asked, task_path=str(tmp_path)))
