"""The training examples of a task in the form of its prompt, and never what is evaluated."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from calib import tasks
from calib.settings import SettingsError
from calib.source import Source, get_source

CHOICE = """
task: rivers
dataset_path: json
dataset_kwargs: {{data_files: {{train: "{folder}/train.jsonl", test: "{folder}/test.jsonl"}}}}
output_type: multiple_choice
training_split: train
test_split: test
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""


def rows(first: int, last: int) -> str:
    records = [
        {"question": f"river {n}?", "choices": ["left", f"right {n}"], "answer": 1, "why": f"It flows {n}. "}
        for n in range(first, last)
    ]
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rivers.yaml").write_text(CHOICE.format(folder=tmp_path))
    (tmp_path / "train.jsonl").write_text(rows(0, 12))
    (tmp_path / "test.jsonl").write_text(rows(10, 15))  # two of the training examples are evaluated as well
    return tmp_path


def task(folder: Path, **values: Any) -> Source:
    return get_source({"source": "task", "task": "rivers", "task_path": str(folder), **values})


def test_files_are_read_beside_the_task_wherever_one_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = [document.text for document in task(folder).documents()]
    (folder / "rivers.yaml").write_text(CHOICE.format(folder=folder).replace(f"{folder}/", ""))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert [document.text for document in task(folder).documents()] == known


def test_an_example_is_the_prompt_and_the_right_answer(folder: Path) -> None:
    texts = [document.text for document in task(folder).documents()]
    assert sorted(texts) == sorted(f"Q: river {n}?\nA: right {n}" for n in range(10))
    assert texts != sorted(texts)


def test_evaluated_examples_are_never_among_them(folder: Path) -> None:
    for form, changes in (
        ("zero_shot", {}),
        ("in_context", {"shots": 3}),
        ("chain_of_thought", {"rationale": "why"}),
    ):
        text = "\n".join(document.text for document in task(folder, form=form, **changes).documents())
        assert "river 9?" in text or form == "in_context"
        assert not any(f"river {n}?" in text for n in range(10, 15))


def test_in_context_shows_several_examples_and_none_twice(folder: Path) -> None:
    texts = [document.text for document in task(folder, form="in_context", shots=3).documents()]
    assert [text.count("Q: ") for text in texts] == [3, 3, 3]
    questions = [line for text in texts for line in text.splitlines() if line.startswith("Q: ")]
    assert len(set(questions)) == 9


def test_chain_of_thought_has_the_reasoning_before_the_answer(folder: Path) -> None:
    texts = {document.text for document in task(folder, form="chain_of_thought", rationale="why").documents()}
    assert "Q: river 3?\nA: It flows 3.\nright 3" in texts
    with pytest.raises(SettingsError, match="no text in column 'wyh', did you mean 'why'"):
        next(task(folder, form="chain_of_thought", rationale="wyh").documents())


def test_what_is_evaluated_can_be_excluded_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list(task(folder).evaluated())  # type: ignore[attr-defined]
    assert asked == [f"Q: river {n}?\nA: right {n}" for n in range(10, 15)]
    (folder / "own.jsonl").write_text(json.dumps({"text": f"a b {asked[2]} c"}) + '\n{"text": "the river"}\n')
    monkeypatch.setattr("calib.sources.exclude_overlap.Task", lambda task: globals()["task"](folder, task=task))
    of = {"source": "file", "path": str(folder / "own.jsonl")}
    source = get_source({"source": "exclude_overlap", "of": of, "tasks": ["rivers"], "n": 5})
    assert [document.text for document in source.documents()] == ["the river"]


def test_seed_orders_the_examples(folder: Path) -> None:
    orders = {tuple(document.id for document in task(folder, seed=seed).documents()) for seed in range(3)}
    assert len(orders) == 3


def test_changed_examples_are_another_source(folder: Path) -> None:
    before = task(folder).revision()
    (folder / "train.jsonl").write_text(rows(0, 13))
    assert task(folder).revision() != before


def test_task_without_training_split_is_refused(folder: Path) -> None:
    file = folder / "rivers.yaml"
    file.write_text(file.read_text().replace("training_split: train\n", ""))
    with pytest.raises(SettingsError, match="task 'rivers': has no training split"):
        next(task(folder).documents())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "rivres"}, "there is no such task, did you mean 'rivers'?"),
        ({"form": "chain_of_thought"}, "source.rationale: the column of the reasoning"),
        ({"rationale": "why"}, "source.rationale: the column of the reasoning"),
        ({"task_path": "/nowhere"}, "no such file or folder with tasks: /nowhere"),
    ],
)
def test_what_is_wrong_is_one_line(folder: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        source = task(folder, **values)
        source.check()
        next(source.documents())
    assert message in str(caught.value) and len(caught.value.lines) == 1


def test_code_of_a_task_is_never_run(folder: Path) -> None:
    file = folder / "rivers.yaml"
    file.write_text(file.read_text() + "process_docs: !function evil.run\n")
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(SettingsError, match="runs code of its own"):
        task(folder).check()
    with pytest.raises(SettingsError, match="runs code of its own"):
        next(task(folder).documents())


@pytest.mark.parametrize("name", ["elsewhere/train.jsonl", "tasks/train.csv"])
def test_data_that_the_id_would_not_know_is_refused(folder: Path, name: str) -> None:
    inside = folder / "tasks"
    inside.mkdir()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / "test.jsonl").rename(inside / "test.jsonl")
    (folder / "train.jsonl").rename(folder / name)
    text = (folder / "rivers.yaml").read_text().replace(f"{folder}/test", f"{inside}/test")
    (inside / "rivers.yaml").write_text(text.replace(f"{folder}/train.jsonl", f"{folder / name}"))
    (folder / "rivers.yaml").unlink()
    with pytest.raises(SettingsError, match=rf"reads .*{name}, which the id of a set would not know"):
        next(task(inside).documents())


def test_the_data_behind_a_task_of_lm_eval_are_in_its_revision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, commit = task(folder), "c0ffee" + "0" * 34
    source = get_source({"source": "task", "task": "rivers"})
    loaded = own.files.load()  # type: ignore[attr-defined]
    monkeypatch.setattr(tasks.TaskFiles, "load", lambda self: loaded)
    tasks.data_revision.cache_clear()
    first = source.resolved_revision()
    assert re.fullmatch(r"lm-eval [^,]+, examples [0-9a-f]{16}", first)
    cached = [{"filename": f"/cache/org___rivers/default/0.0.0/{commit}/rivers-train.arrow"}]
    loaded.dataset = {"train": SimpleNamespace(cache_files=cached)}
    loaded.training_docs = lambda: [{"question": "another river?"}]
    tasks.data_revision.cache_clear()
    now = source.resolved_revision()
    assert f", {commit}, examples " in now and first.rpartition(" ")[2] not in now
    around = get_source({"source": "exclude_overlap", "of": own.to_dict(), "tasks": ["rivers"]})
    assert around.resolved_revision().endswith(f"; rivers: {now}")
    assert source.revision() == first.partition(",")[0]  # the id is known without a network
    tasks.data_revision.cache_clear()


def test_bundled_tasks_need_no_network_and_know_their_licences() -> None:
    source = get_source({"source": "task", "task": "reference_facts_years_train"})
    assert not source.remote
    assert source.revision().startswith("sha256:") and source.resolved_revision() == source.revision()
    assert source.licences() == ["CC-BY-4.0", "CC-BY-SA-3.0"]
    texts = [document.text for document in source.documents()]
    assert len(texts) == 150 and all(re.search(r" (1[4-9]|20)\d\d$", text) for text in texts)
    shown = get_source({"source": "task", "task": "reference_facts_years_train", "form": "in_context"})
    assert len(list(shown.documents())) == 30


def test_a_bundled_task_is_known_by_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tasks.BUNDLED, tmp_path / "tasks")
    monkeypatch.setattr(tasks, "BUNDLED", tmp_path / "tasks")
    source = get_source({"source": "task", "task": "reference_facts_years_train"})
    before = source.revision()
    (tmp_path / "tasks" / "another.yaml").write_text("task: another\n")
    assert source.revision() == before
    with (tmp_path / "tasks" / "reference_facts_years_train.train.jsonl").open("a") as file:
        file.write("\n")
    assert source.revision() != before
