"""A task's files count for a study's identity, and other files do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from calib.settings import SettingsError
from sweep.evaluation.tasks.files import task_hashes
from sweep.evaluation.tasks.names import REFERENCE_TASKS

FILES = {
    "mine/base.yaml": "output_type: multiple_choice\ntest_split: test\n",
    "mine/plain.yaml": "include: base.yaml\ntask: plain\ntag: easy\ndataset_path: json\n"
    "dataset_kwargs: {data_files: {test: ../data/plain.jsonl}}\n",
    "mine/coded.yaml": "task: coded\ncustom_dataset: !function code.load\n",
    "mine/code.py": "import helper\n\ndef load(**_):\n    return open('items.txt')\n",
    "mine/helper.py": "RULE = 1\n",
    "mine/items.txt": "one\n",
    "mine/folder.yaml": "task: folder\ntag: easy\ndataset_path: ../shards\n",
    "mine/several.yaml": "task: several\ndataset_path: json\ndataset_kwargs: {data_files: ['../shards/*.jsonl']}\n",
    "mine/group.yaml": "group: both\ntask: [plain, {task: coded, num_fewshot: 1}]\n",
    "mine/unrelated.yaml": "task: unrelated\ndataset_path: json\n",
    "mine/notes.md": "nothing\n",
    "data/plain.jsonl": '{"question": "a"}\n',
    "shards/0.jsonl": '{"question": "b"}\n',
}
USED = {
    "plain": ["mine/plain.yaml", "mine/base.yaml", "data/plain.jsonl"],
    "coded": ["mine/coded.yaml", "mine/code.py", "mine/helper.py", "mine/items.txt"],
    "folder": ["mine/folder.yaml", "shards/0.jsonl"],
    "several": ["mine/several.yaml", "shards/0.jsonl"],
}
USED["both"] = ["mine/group.yaml", *USED["plain"], *USED["coded"]]
USED["easy"] = [*USED["plain"], *USED["folder"]]


@pytest.fixture
def hashes(tmp_path: Path) -> Callable[..., list[str]]:
    """Hashes of tasks in the folder `mine`, when the contents of `changed` are other ones."""

    def call(*names: str, place: str = "here", **changed: str) -> list[str]:
        for name, content in {**FILES, **changed}.items():
            file = tmp_path / place / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        return task_hashes(names, str(tmp_path / place / "mine"))

    return call


@pytest.mark.parametrize("task", USED)
def test_exactly_the_files_of_a_task_count(hashes: Callable[..., list[str]], task: str) -> None:
    before = hashes(task)
    assert len(before) == 1
    changing = {name for name, content in FILES.items() if hashes(task, **{name: content + "\n"}) != before}
    assert changing == set(USED[task])
    assert hashes(task, place="there") == before


def test_a_new_shard_counts(hashes: Callable[..., list[str]]) -> None:
    before = hashes("several")
    assert hashes("several", **{"shards/1.jsonl": "{}\n"}) != before


def test_our_tasks_count_when_they_are_named(hashes: Callable[..., list[str]]) -> None:
    assert hashes("plain", "reference_piqa") != hashes("plain")
    assert task_hashes(["reference_piqa"], None) != task_hashes(["reference_hellaswag"], None)


def test_the_data_of_our_tasks_counts(tmp_path: Path) -> None:
    own = Path(shutil.copytree(REFERENCE_TASKS, tmp_path / "tasks"))
    assert task_hashes(["reference"], str(own)) == task_hashes(["reference"], None)
    data = own / "reference_hellaswag.jsonl"
    data.write_text(data.read_text() + "\n")
    assert task_hashes(["reference"], str(own)) != task_hashes(["reference"], None)
    assert task_hashes(["reference_piqa"], str(own)) == task_hashes(["reference_piqa"], None)


def test_members_that_lm_eval_defines_count_by_its_folder(hashes: Callable[..., list[str]]) -> None:
    own = {"mine/group.yaml": "group: both\ntask: [plain, piqa]\n"}
    assert set(hashes("both", **own)) > set(task_hashes(["piqa"], None))


def test_broken_task_is_named_and_a_broken_other_one_is_not(hashes: Callable[..., list[str]]) -> None:
    broken = {"mine/unrelated.yaml": "task: unrelated\ndataset_path: [json\n"}
    assert hashes("plain", **broken) == hashes("plain")
    with pytest.raises(SettingsError, match=r"'unrelated' stands in a file that is broken: .*unrelated\.yaml"):
        hashes("unrelated", **broken)
