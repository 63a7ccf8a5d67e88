from __future__ import annotations

from pathlib import Path

import pytest

from sweep.evaluation.tasks.yamlfiles import Function, Index, TaskFileError, leaves_with_places, read_task


def test_words_mean_what_they_mean_to_lm_eval(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("task: a\noctal: 010\nminutes: 2:4\nanswer: no\ncode: !function utils.judge\n")
    config, parts = read_task(file)
    code = Function("utils.judge")
    assert config == {"task": "a", "octal": 8, "minutes": 124, "answer": False, "code": code}
    assert (code.module, code.name, code.file) == ("utils", "judge", "utils.py")
    assert list(parts) == [file]


def test_a_file_comes_over_what_it_includes(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("task: base\nlimit: 1\nkept: 2\n")
    (tmp_path / "a.yaml").write_text("include: base\ntask: a\nlimit: 3\n")
    config, parts = read_task(tmp_path / "a.yaml")
    assert config == {"task": "a", "limit": 3, "kept": 2}
    assert [file.name for file in parts] == ["a.yaml", "base"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include: a.yaml\n", "includes itself"),
        ("include: none\n", "no file 'none' beside it"),
        ("task: a\ntask: b\n", "line 1: the key 'task' is there twice"),
        ("- a\n", "expected a mapping of settings .* got a list"),
        ("a: &a [1, *a]\n", "an alias stands within its own anchor"),
        (
            "a0: &a0 [1]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(20)),
            "more than 1,000,000 values",
        ),
        ("day: 2024-13-45\n", "not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(TaskFileError, match=message):
        read_task(tmp_path / "a.yaml")


def test_a_later_folder_wins_and_tags_add_up(tmp_path: Path) -> None:
    for folder, limit in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.yaml").write_text(f"task: a\ntag: [t]\nlimit: {limit}\n")
    (tmp_path / "two" / "b.yaml").write_text("task: b\ntag: t\n")
    index = Index.read([tmp_path / "one", tmp_path / "two"])
    found = index.get("a")
    assert found is not None
    assert found.config["limit"] == 2
    assert index.get("c") is None
    assert set(index.tags["t"]) == {"a", "b"}
    assert index.place(tmp_path / "two" / "b.yaml") == "b.yaml"


def test_places_lead_to_every_value() -> None:
    value = {"metric_list": [{"metric": "acc"}], "tags": ["x"]}
    assert list(leaves_with_places(value, "")) == [("metric_list[0].metric", "acc"), ("tags[0]", "x")]
