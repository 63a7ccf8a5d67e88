"""Hub data sets, tried on small local files of the same shape that go through the same loading code."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import calib.hub
from calib.build import build
from calib.hub import COMMIT, HubSource
from calib.settings import SettingsError
from calib.source import SOURCES, get_source
from calib.spec import CalibrationSpec

Write = Callable[[list[str]], str]


@pytest.fixture
def shapes(tmp_path: Path) -> dict[str, Write]:
    """For each data set, a function that writes texts in the shape of its files and returns the path."""

    def c4(texts: list[str]) -> str:
        rows = [{"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": "https://a.example"} for text in texts]
        path = tmp_path / "c4-train.00000-of-01024.json.gz"
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        return str(path)

    def redpajama(texts: list[str]) -> str:
        rows = [{"text": text, "meta": json.dumps({"url": "https://a.example"})} for text in texts]
        path = tmp_path / "arxiv_sample.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def parquet(name: str, column: str, *others: str) -> Write:
        def write(texts: list[str]) -> str:
            path = tmp_path / name
            pq.write_table(pa.table({column: texts, **{other: ["-"] * len(texts) for other in others}}), path)
            return str(path)

        return write

    return {
        "c4": c4,
        "cnn_dailymail": parquet("train-00000-of-00003.parquet", "article", "highlights", "id"),
        "redpajama": redpajama,
        "refinedweb": parquet("train-00000-of-05534.parquet", "content", "url", "timestamp", "dump", "segment"),
        "wikipedia": parquet("train-00000-of-00041.parquet", "text", "id", "url", "title"),
    }


NAMES = ["c4", "cnn_dailymail", "redpajama", "refinedweb", "wikipedia"]


@pytest.mark.parametrize("name", NAMES)
def test_local_files_of_the_same_shape_are_read(
    shapes: dict[str, Write], name: str, tokenizer: Any, text_of: Callable[..., str]
) -> None:
    texts = [text_of(number) for number in range(30)]
    source = get_source({"source": name, "path": shapes[name](texts), "every": 1})
    source.check()
    documents = list(source.documents())
    assert [document.text for document in documents] == texts
    assert len({document.id for document in documents}) == 30
    built = build(CalibrationSpec(source=source, set=1, nsamples=4, seqlen=32), tokenizer, "tiny")
    assert built.tokens.shape == (4, 32)
    assert built.revision == source.revision() and built.revision.startswith("sha256:")


@pytest.mark.parametrize("name", NAMES)
def test_defaults_pin_a_commit_and_need_no_network_to_plan(name: str) -> None:
    source = get_source(name)
    assert COMMIT.fullmatch(source.revision())
    assert source.resolved_revision() == source.revision()
    source.check()
    assert source.capacity() is None


@pytest.mark.parametrize("name", [*NAMES, "wikitext2"])
def test_unreachable_hub_says_what_to_fetch_and_where_to_put_it(name: str) -> None:
    source = get_source(name)
    assert isinstance(source, HubSource)
    with pytest.raises(SettingsError) as caught:
        list(source.documents())
    message = str(caught.value)
    assert f"hf download {source.repository}" in message and f"--revision {source.pinned}" in message
    assert f"{{source: {name}, path: FILES}}" in message
    assert f"{{source: file, path: FILES, column: {source.column}}}" in message


def test_pool_takes_every_nth_document_until_it_has_enough(shapes: dict[str, Write]) -> None:
    path = shapes["c4"]([f"text {number}" for number in range(20)])
    source = get_source({"source": "c4", "path": path, "documents": 3, "every": 5})
    assert [document.text for document in source.documents()] == ["text 0", "text 5", "text 10"]


def test_interleaved_files_take_turns(shapes: dict[str, Write], tmp_path: Path) -> None:
    paths = []
    for part, count in (("a", 3), ("b", 1), ("c", 2)):
        path = Path(shapes["wikipedia"]([f"{part}{number}" for number in range(count)]))
        paths.append(str(path.rename(tmp_path / f"{part}.parquet")))
    turns = get_source({"source": "wikipedia", "path": paths})
    assert [document.text for document in turns.documents()] == ["a0", "b0", "c0", "a1", "c1", "a2"]
    chain = get_source({"source": "wikipedia", "path": paths, "interleave": False})
    assert [document.text for document in chain.documents()] == ["a0", "a1", "a2", "b0", "c0", "c1"]


@pytest.mark.parametrize("name", NAMES)
def test_wrong_column_gets_a_suggestion_beforehand(shapes: dict[str, Write], name: str) -> None:
    column = get_source(name).to_dict()["column"]
    source = get_source({"source": name, "path": shapes[name](["a"]), "column": f"{column}s"})
    with pytest.raises(SettingsError, match=f"no column '{column}s', did you mean '{column}'?"):
        source.check()


def test_blank_rows_are_left_out_and_blank_files_refused(shapes: dict[str, Write]) -> None:
    path = shapes["c4"](["", "a", " \n", "b"])
    assert [d.text for d in get_source({"source": "c4", "path": path}).documents()] == ["a", "b"]
    with pytest.raises(SettingsError, match="column 'text' holds no usable text"):
        get_source({"source": "c4", "path": shapes["c4"](["", " "])}).check()


def test_missing_local_file_is_found_beforehand(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="source 'c4': path: no such file or folder"):
        get_source({"source": "c4", "path": str(tmp_path / "none.jsonl")}).check()


def test_identity_knows_what_makes_the_pool() -> None:
    plain = get_source("c4").identity()
    for change in ({"documents": 5}, {"every": 2}, {"interleave": True}, {"files": ["en/other.json.gz"]}):
        assert get_source({"source": "c4", **change}).identity() != plain
    assert get_source({"source": "c4", "revision": "main"}).revision() == "main"


def test_branch_is_resolved_to_its_commit_when_the_set_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def dataset_info(repository: str, revision: str) -> SimpleNamespace:
        asked.append((repository, revision))
        return SimpleNamespace(sha="f" * 40)

    monkeypatch.setattr(calib.hub, "_api", lambda: SimpleNamespace(dataset_info=dataset_info))
    source = get_source({"source": "c4", "revision": "main"})
    assert source.revision() == "main" and source.resolved_revision() == "f" * 40
    assert asked == [("allenai/c4", "main")]


def test_patterns_become_addresses_with_the_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    class Files:
        def glob(self, pattern: str) -> list[str]:
            return [pattern.replace("*", str(number)) for number in (1, 0)]

    monkeypatch.setattr(calib.hub, "_filesystem", Files)
    source = get_source({"source": "cnn_dailymail", "revision": "abc"})
    assert isinstance(source, HubSource)
    assert source._files() == [
        f"hf://datasets/abisee/cnn_dailymail@abc/3.0.0/train-{number}.parquet" for number in (0, 1)
    ]
    assert get_source("c4")._files() == [  # type: ignore[attr-defined]
        "hf://datasets/allenai/c4@1588ec454efa1a09f29cd18ddd04fe05fc8653a2/en/c4-train.00000-of-01024.json.gz"
    ]


def test_remote_files_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same code on a remote file system: fsspec's memory takes the place of the hub."""
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("one", "two"):
        with memory.open(f"/sample/{name}.jsonl", "w") as file:
            file.write("".join(json.dumps({"text": f"{name} {number}"}) + "\n" for number in range(3)))
    monkeypatch.setattr(HubSource, "_remote_files", lambda self: [f"memory://sample/{n}.jsonl" for n in ("one", "two")])
    source = get_source({"source": "redpajama", "every": 2})
    assert [document.text for document in source.documents()] == ["one 0", "one 2", "two 1"]


def test_a_connection_that_breaks_midway_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Iterator[str]:
        yield "a"
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(HubSource, "_open", lambda self, file: rows())
    with pytest.raises(SettingsError, match=r"reset by peer.*hf download allenai/c4"):
        list(get_source("c4").documents())


def test_a_mistake_in_the_code_is_not_blamed_on_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Iterator[str]:
        raise ZeroDivisionError("ours")
        yield ""

    monkeypatch.setattr(HubSource, "_open", lambda self, file: rows())
    with pytest.raises(ZeroDivisionError):
        list(get_source("c4").documents())


def test_other_columns_may_change_their_type(tmp_path: Path) -> None:
    """RedPajama's `meta` is a string in one place, an object in another, and holds numbers where it held text."""
    metas = [{"ts": "2020", "n": 1}, {"ts": 2020, "n": "x"}, "text", None, {"ts": {"y": [1]}}]
    path = tmp_path / "github_sample.jsonl"
    lines = [
        json.dumps({"text": f"{number} over\u2028there", "meta": metas[number * 5 // 60_000]}, ensure_ascii=False)
        for number in range(60_000)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    source = get_source({"source": "redpajama", "path": str(path), "every": 10_000})
    assert [document.text for document in source.documents()] == [
        f"{n} over\u2028there" for n in range(0, 60_000, 10_000)
    ]


def test_a_json_list_is_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps([{"output": "one"}, {"output": "two"}], indent=2))
    source = get_source(
        {"source": "hub", "repository": "a/b", "files": ["x.json"], "path": str(path), "column": "output"}
    )
    assert [document.text for document in source.documents()] == ["one", "two"]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(SettingsError, match="a.jsonl, line 2: not valid JSON"):
        list(get_source({"source": "c4", "path": str(path)}).documents())
    path.write_text('{"text": "a"}\n{"text": 7}\n')
    with pytest.raises(SettingsError, match="a.jsonl, record 2: column 'text' holds 7, not text"):
        list(get_source({"source": "c4", "path": str(path)}).documents())


@pytest.mark.parametrize("name", ["a.parquet", "a.json.gz"])
def test_a_damaged_local_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"neither of them")
    with pytest.raises(SettingsError, match=f"source 'c4': .*{name} cannot be read"):
        get_source({"source": "c4", "path": str(path)}).check()


def test_any_data_set_of_the_hub_can_be_named(shapes: dict[str, Write]) -> None:
    source = get_source(
        {"source": "hub", "repository": "owner/news", "files": ["a.jsonl"], "path": shapes["redpajama"](["x", "y"])}
    )
    assert source.label == "news"
    assert [document.text for document in source.documents()] == ["x", "y"]
    assert "hub" in SOURCES.names()


def test_wikitext_articles_are_put_together(tmp_path: Path) -> None:
    lines = ["", " = First = \n", "", " one \n", " = = Section = = \n", " two \n", "", " = Second = \n", " three \n"]
    path = tmp_path / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"text": lines}), path)
    articles = [document.text for document in get_source({"source": "wikitext2", "path": str(path)}).documents()]
    assert articles == [" = First = \n one \n = = Section = = \n two \n", " = Second = \n three \n"]
    whole = get_source({"source": "wikitext2", "path": str(path), "unit": "whole"})
    assert [document.text for document in whole.documents()] == ["\n\n".join(lines)]
