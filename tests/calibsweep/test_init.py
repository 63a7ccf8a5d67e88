"""A study that a newcomer gets: commented, checked, and one that runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calib.yamltext import read_yaml_file
from calibsweep.console import BAD_INPUT, OK, main
from calibsweep.schema import study_schema
from sweep.config import load_study


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # as the console does elsewhere; taken back after the test
    records = [json.dumps({"body": f"ticket {number}: the printer is on fire again"}) for number in range(3000)]
    (tmp_path / "tickets.jsonl").write_text("\n".join(records) + "\n")
    return tmp_path


def test_without_arguments_it_is_a_study_of_bundled_things(folder: Path) -> None:
    assert main(["init"]) == OK
    study = load_study("study.yaml")
    assert study.name == "study"
    assert {spec.source.label for spec in study.calibration} >= {"books", "code"}
    assert len({spec.nsamples for spec in study.calibration}) == 2


def test_ones_own_model_text_and_tasks_are_in_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["init", "mine.yaml", "--model", "reference-5m", "--text", "tickets.jsonl", "--column", "body"]
    assert main([*arguments, "--heldout", "tickets.jsonl", "--tasks", "reference_piqa"]) == OK
    study = load_study("mine.yaml")
    assert [model.name for model in study.models] == ["reference-5m"]
    assert study.calibration[0].source.label == "tickets"
    assert study.evaluation.tasks == ["reference_piqa"]
    assert "calibsweep run mine.yaml" in capsys.readouterr().out
    text = Path("mine.yaml").read_text()
    assert "<" not in text
    assert text.count("#") > 10


def test_a_task_is_named_by_its_file_and_the_only_column_with_text_is_found(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mytasks").mkdir()
    Path("mytasks/triage.yaml").write_text(
        "task: triage\ndataset_path: json\ndataset_kwargs: {data_files: {test: mytasks/triage.jsonl}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: a\ndoc_to_choice: [b, c]\ndoc_to_target: 0\n"
        "metric_list: [{metric: acc}]\n"
    )
    Path("mytasks/triage.jsonl").write_text('{"a": "x"}\n')
    assert main(["init", "--text", "tickets.jsonl", "--tasks", "mytasks/triage.yaml"]) == OK
    study = load_study("study.yaml")
    assert study.evaluation.tasks == ["triage"]
    assert "column: body" in Path("study.yaml").read_text()
    assert "--heldout FILE adds text of yours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"one/a.yaml": "task: a\n", "two/b.yaml": "task: b\n"}, "task files of several folders (one, two)"),
        ({"a.yaml": "dataset_path: json\n"}, "a.yaml defines no task"),
    ],
)
def test_task_files_that_cannot_be_meant_are_said(
    folder: Path, files: dict[str, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = []
    for name, text in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
        arguments += ["--tasks", name]
    assert main(["init", *arguments]) == BAD_INPUT
    assert told in capsys.readouterr().err
    assert not Path("study.yaml").exists()


def test_the_schema_that_it_names_lies_beside_it(folder: Path) -> None:
    assert main(["init"]) == OK
    named = Path("study.yaml").read_text().splitlines()[0].partition("$schema=")[2]
    assert json.loads(Path(named).read_text()) == study_schema()
    assert read_yaml_file(Path("study.yaml"))["study"] == "study"


def test_a_name_that_is_none_is_said_and_nothing_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--model", "reference-9m"]) == BAD_INPUT
    assert "did you mean" in capsys.readouterr().err
    assert not Path("study.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--text", "nowhere.jsonl"], "nowhere.jsonl"), (["--text", "short.txt"], "short"), (["--tasks", "a: b"], "a: b")],
)
def test_what_keeps_the_study_from_running_is_said_for_the_editor(
    folder: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("short.txt").write_text("Too little.\n")
    assert main(["init", *arguments]) == 1
    assert told in capsys.readouterr().err
    assert Path("study.yaml").is_file()


def test_a_file_that_is_there_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("study.yaml").write_text("mine\n")
    assert main(["init"]) == BAD_INPUT
    assert Path("study.yaml").read_text() == "mine\n"
    assert "is there already" in capsys.readouterr().err
