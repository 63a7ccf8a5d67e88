"""What every source promises. A new source is tested on its first day: its `example` is all that the tests need."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from calib.build import build
from calib.settings import SettingsError
from calib.source import SOURCES, Source, TokenDocument, get_source, located_entry
from calib.sources.bundled import ReferenceText
from calib.spec import CalibrationSpec
from tests.calib.fake_writer import FakeWriter
from tests.calib.shouted import Shouted

NAMES = SOURCES.names()
NEEDS_NETWORK = {"task"}  # without any file of the user's own


def entry(name: str, **changes: Any) -> dict[str, Any]:
    return {"source": name, **SOURCES.get(name).example, **changes}


def offline(name: str) -> dict[str, Any]:
    """The example, reading `my.jsonl` where the source can read a local file."""
    reads_files = "path" in {field.name for field in fields(SOURCES.get(name))}
    return entry(name, **({"path": "my.jsonl"} if reads_files else {}))


WITH_FILES = [name for name in NAMES if "my.jsonl" in json.dumps(offline(name))]
SMALL = [  # quick to read as a whole
    name for name in NAMES if not issubclass(SOURCES.get(name), ReferenceText) and name not in NEEDS_NETWORK
]


def record(text: str) -> dict[str, Any]:
    """A text under every name that a source looks for, and as a conversation."""
    columns = ("text", "content", "article", "instruction", "output")
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "a window"}]
    return {**dict.fromkeys(columns, text), "messages": messages}


def read(source: Source, tokenizer: Any) -> Iterator[TokenDocument]:
    return source.written(tokenizer, FakeWriter()) if source.writes else source.token_documents(tokenizer)


def ids_of(source: Source, tokenizer: Any) -> list[str]:
    return [document.id for document in read(source, tokenizer)]


@pytest.fixture
def folder(tmp_path: Path, text_of: Callable[..., str]) -> Callable[..., Path]:
    """Writes a folder with a `my.jsonl` whose records fit every source, and returns it."""

    def write(name: str, documents: int = 6) -> Path:
        (tmp_path / name).mkdir()
        records = [record(text_of(number)) for number in range(documents)]
        (tmp_path / name / "my.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return tmp_path / name

    return write


def id_of(source: Source) -> str:
    return CalibrationSpec(source=source, set=0, nsamples=2, seqlen=8).id("tokenizer", "model")


@pytest.mark.parametrize("name", NAMES)
def test_a_source_survives_its_own_dictionary(name: str) -> None:
    source = get_source(entry(name))
    assert source.source_name == name
    assert source.label
    again = get_source(json.loads(json.dumps(source.to_dict())))
    assert again == source == pickle.loads(pickle.dumps(source))
    assert again.identity() == source.identity()


@pytest.mark.parametrize("name", NAMES)
def test_label_is_no_part_of_an_identity(name: str) -> None:
    plain, named = get_source(entry(name)), get_source(entry(name, label="mine"))
    assert named.label == "mine"
    assert named.identity() == plain.identity()


@pytest.mark.parametrize("name", WITH_FILES)
def test_same_files_in_another_folder_are_the_same_source(name: str, folder: Callable[..., Path]) -> None:
    asked = get_source(offline(name))
    here, there = (asked.located(folder(place)) for place in ("here", "there"))
    assert here != there
    assert here.identity() == there.identity()
    assert id_of(here) == id_of(there)
    assert here.label == there.label == asked.label


@pytest.mark.parametrize("name", WITH_FILES)
def test_other_files_are_another_source(name: str, folder: Callable[..., Path]) -> None:
    one, other = (get_source(offline(name)).located(folder(f"{count}", count)) for count in (5, 6))
    assert id_of(one) != id_of(other)


@pytest.mark.parametrize("name", WITH_FILES)
def test_relative_paths_are_read_from_the_folder_of_the_study(
    name: str, folder: Callable[..., Path], tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = folder("study")
    monkeypatch.chdir(study)
    expected = ids_of(get_source(offline(name)), tokenizer)
    monkeypatch.chdir(tmp_path)
    located = get_source(offline(name)).located(study)
    located.check()
    assert ids_of(located, tokenizer) == expected
    assert located.located(tmp_path) == located
    written = located_entry(offline(name), study)
    assert get_source(written) == located and located_entry(written, tmp_path) == written


@pytest.mark.parametrize("name", WITH_FILES)
def test_missing_file_is_found_beforehand(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file or folder"):
        get_source(offline(name)).located(tmp_path).check()


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(WITH_FILES)))
def test_a_source_without_files_has_nothing_to_locate(name: str, tmp_path: Path) -> None:
    assert get_source(entry(name)).located(tmp_path) == get_source(entry(name))
    assert located_entry(entry(name), tmp_path) == entry(name)


@pytest.mark.parametrize("name", SMALL)
def test_documents_come_in_one_order_under_names_of_their_own(
    name: str, folder: Callable[..., Path], tokenizer: Any
) -> None:
    source = get_source(offline(name)).located(folder("study"))
    first, again = (list(islice(read(source, tokenizer), 20)) for _ in range(2))
    assert first and all(len(document.tokens) for document in first)
    assert [document.tokens.tolist() for document in first] == [document.tokens.tolist() for document in again]
    assert len({document.id for document in first}) == len(first)
    assert [document.id for document in first] == [document.id for document in again]


@pytest.mark.parametrize("name", SMALL)
def test_capacity_is_never_less_than_there_is(name: str, folder: Callable[..., Path], tokenizer: Any) -> None:
    source = get_source(offline(name)).located(folder("study"))
    capacity = source.capacity()
    if capacity is not None:
        assert capacity >= sum(len(document.tokens) + 1 for document in read(source, tokenizer))


def test_a_wrapper_is_built_and_says_what_it_wraps(folder: Callable[..., Path], tokenizer: Any) -> None:
    source = get_source({"source": "shouted", "of": {"source": "file", "path": "my.jsonl"}}).located(folder("study"))
    assert source.label == "shouted(my)"
    assert [part.label for part in source.parts()] == ["my"]
    built = build(CalibrationSpec(source=source, set=0, nsamples=2, seqlen=8), tokenizer, "tiny")
    assert all(text == text.upper() for text in built.texts)
    assert built.revision.startswith("my: sha256:")


def test_a_wrapper_around_a_mixture_keeps_its_shares() -> None:
    mixture = {"source": "mixture", "parts": {"books": 0.75, "code": 0.25}}
    components = get_source({"source": "shouted", "of": mixture, "mark": "!"}).components()
    assert [(source.label, share) for source, share in components] == [
        ("shouted(books)", 0.75),
        ("shouted(code)", 0.25),
    ]
    assert all(isinstance(source, Shouted) and source.mark == "!" for source, _ in components)


def test_raised_version_is_another_source(monkeypatch: pytest.MonkeyPatch) -> None:
    source = get_source({"source": "shouted", "of": "books"})
    before = id_of(source)
    monkeypatch.setattr(Shouted, "version", 2)
    assert id_of(source) != before


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("bokks", "source.of: unknown source 'bokks', did you mean 'books'?"),
        ({"source": "file"}, "source.of.path: required, but not given"),
        ({"source": "shouted", "of": {"source": "file", "paht": "x"}}, "source.of.of.paht: unknown key 'paht'"),
        (3, "source.of: expected the name of a source or a mapping"),
    ],
)
def test_what_is_wrong_inside_a_wrapper_is_named_with_its_place(inside: Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        get_source({"source": "shouted", "of": inside})
    assert str(caught.value).startswith(message)
