"""Your own text: every format gives the same documents, and every mistake gets one clear sentence."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calib.files import content_hash
from calib.settings import SettingsError
from calib.source import Source, get_source

TEXTS = ["the first, with a\nline break", "der zweite: über 数据", 'a third "quoted" one']


def source(path: Path | str | list[str], **settings: Any) -> Source:
    return get_source({"source": "file", "path": path if isinstance(path, list) else str(path), **settings})


def texts(path: Path | str | list[str], **settings: Any) -> list[str]:
    return [document.text for document in source(path, **settings).documents()]


def write(folder: Path, name: str, column: str = "text") -> Path:
    """TEXTS in the format that the name asks for."""
    path = folder / name
    records = [{column: text, "number": number} for number, text in enumerate(TEXTS)]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(records), path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif name.endswith("list.json"):
        path.write_text(json.dumps(records, indent=2), encoding="utf-8")
    elif name.endswith("strings.json"):
        path.write_text(json.dumps(TEXTS), encoding="utf-8")
    else:
        path.write_text(lines, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.ndjson", "a.json", "a.jsonl.gz", "a.json.gz", "list.json", "strings.json", "a.parquet"]
)
def test_every_format_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name)
    source(path).check()
    assert texts(path) == TEXTS


def test_other_column(tmp_path: Path) -> None:
    assert texts(write(tmp_path, "a.jsonl", "content"), column="content") == TEXTS
    assert texts(write(tmp_path, "a.parquet", "content"), column="content") == TEXTS


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_text_may_be_stored_in_other_ways(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array(TEXTS).cast(kind)}), path)
    assert texts(path) == TEXTS


def test_text_file_is_one_document_or_its_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufefffirst line\nsecond line\n\n \n\nnext paragraph\r\n\r\nlast\n".encode())
    assert len(texts(path)) == 1
    assert texts(path, unit="paragraph") == ["first line\nsecond line", "next paragraph", "last\n"]


def test_folder_and_pattern_and_list_take_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name, text in (("b.txt", "two"), ("a.txt", "one"), ("deep/c.md", "three"), (".hidden.txt", "no")):
        (tmp_path / name).write_text(text)
    (tmp_path / "readme.pdf").write_bytes(b"%PDF")
    assert texts(tmp_path) == ["one", "two", "three"]
    assert texts(f"{tmp_path}/*.txt") == ["one", "two"]
    assert texts(f"{tmp_path}/**/*.md") == ["three"]
    assert texts([str(tmp_path / "b.txt"), str(tmp_path / "deep")]) == ["two", "three"]


def test_blank_documents_are_left_out_and_keep_the_numbers(jsonl: Callable[..., Path]) -> None:
    path = jsonl([{"text": "one"}, {"text": "  \n"}, {"text": None}, {"text": "four"}])
    documents = list(source(path).documents())
    assert [(document.id, document.text) for document in documents] == [("my.jsonl:0", "one"), ("my.jsonl:3", "four")]


def test_documents_bounds_the_pool(jsonl: Callable[..., Path]) -> None:
    path = jsonl([{"text": str(number)} for number in range(10)])
    assert texts(path, documents=3) == ["0", "1", "2"]


def test_ids_and_revision_do_not_depend_on_the_place(tmp_path: Path) -> None:
    seen = []
    for place in ("here", "there"):
        folder = tmp_path / place / "corpus"
        (folder / "x").mkdir(parents=True)
        (folder / "y").mkdir()
        (folder / "x" / "a.txt").write_text("one")
        (folder / "y" / "a.txt").write_text("two")
        found = source(folder)
        seen.append(([document.id for document in found.documents()], found.revision()))
    assert seen[0] == seen[1]
    assert seen[0][0] == ["x/a.txt:0", "y/a.txt:0"]


def test_revision_follows_the_content_and_not_the_clock(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = source(path).revision()
    os.utime(path, ns=(1, 1))
    assert source(path).revision() == before
    path.write_text("two")
    os.utime(path, ns=(2, 2))
    assert source(path).revision() != before


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "list.json"])
def test_capacity_is_at_least_the_tokens(tmp_path: Path, tokenizer: Any, name: str) -> None:
    found = source(write(tmp_path, name))
    tokens = sum(len(document.tokens) + 1 for document in found.token_documents(tokenizer))
    capacity = found.capacity()
    assert capacity is not None and tokens <= capacity <= 10 * tokens


def test_capacity_of_packed_files_is_not_known(tmp_path: Path) -> None:
    assert source(write(tmp_path, "a.jsonl.gz")).capacity() is None


def broken(folder: Path, name: str) -> Path:
    """A file with one thing wrong."""
    path = folder / name
    content: dict[str, bytes] = {
        "empty.jsonl": b"",
        "blank.jsonl": b'{"text": " "}\n{"text": null}\n',
        "blank.txt": b" \n\n",
        "cut.jsonl": b'{"text": "fine"}\n{"text": "cut',
        "number.jsonl": b'{"text": 7}\n',
        "bare.jsonl": b"7\n",
        "late.jsonl": b'{"text": "fine"}\n{"txt": "not"}\n',
        "latin.txt": "über".encode("latin-1"),
        "cut.json": b'[{"text": "a"}, {"text": ',
        "no.jsonl.gz": b"plain",
        "no.parquet": b"plain",
        "data.csv": b"text\na\n",
    }
    path.write_bytes(content[name])
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty.jsonl", "is empty"),
        ("blank.jsonl", "holds no usable text, only blank values"),
        ("blank.txt", "holds no usable text, only blank values"),
        ("cut.jsonl", "line 2: not valid JSON"),
        ("number.jsonl", "line 1: column 'text' holds 7, not text"),
        ("bare.jsonl", "line 1: expected an object with the column 'text', got 7"),
        ("late.jsonl", "line 2: no column 'text', did you mean 'txt'?"),
        ("latin.txt", "not UTF-8 text (byte 0); convert it to UTF-8"),
        ("cut.json", "line 1: not valid JSON"),
        ("no.jsonl.gz", "not a whole gzip file"),
        ("no.parquet", "not a Parquet file"),
        ("data.csv", "has an unknown format; expected a name that ends in .jsonl"),
    ],
)
def test_a_broken_file_is_one_clear_error(tmp_path: Path, name: str, message: str) -> None:
    path = broken(tmp_path, name)
    with pytest.raises(SettingsError) as caught:
        list(source(path).documents())
    assert message in str(caught.value)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_wrong_column_gets_a_suggestion_beforehand(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="no column 'txt', did you mean 'text'?"):
        source(write(tmp_path, name), column="txt").check()


def test_parquet_column_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="column 'number' holds int64, not text; choose from text"):
        source(write(tmp_path, "a.parquet"), column="number").check()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my.jsonn", "no such file or folder: {folder}/my.jsonn, did you mean 'my.jsonl'?"),
        ("nowhere/my.jsonl", "there is no folder {folder}/nowhere"),
        ("*.parquet", "no file matches {folder}/*.parquet"),
        ("void", "the folder {folder}/void holds no file that ends in .jsonl"),
    ],
)
def test_missing_files_are_found_beforehand(tmp_path: Path, path: str, message: str) -> None:
    write(tmp_path, "my.jsonl")
    (tmp_path / "void").mkdir()
    with pytest.raises(SettingsError) as caught:
        source(f"{tmp_path}/{path}").check()
    assert message.format(folder=tmp_path) in str(caught.value)


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    path = str(write(tmp_path, "my.jsonl"))
    with pytest.raises(SettingsError, match="is named twice"):
        source([path, path]).check()


def test_no_file_at_all_is_refused() -> None:
    with pytest.raises(SettingsError, match="names no file"):
        source([]).check()


def test_same_bytes_read_in_another_way_are_another_revision(tmp_path: Path) -> None:
    lines = write(tmp_path, "a.jsonl")
    text = Path(shutil.copy(lines, tmp_path / "a.txt"))
    renamed = Path(shutil.copy(lines, tmp_path / "b.ndjson"))
    assert source(text).revision() != source(lines).revision() == source(renamed).revision()
    assert source([str(lines), str(text)]).revision() != source([str(text), str(lines)]).revision()
    assert source(lines).revision() == content_hash([lines])  # ids of earlier sets stay


RECORDS = [{"text": text, "meta": {"body": f"body {number}"}} for number, text in enumerate(TEXTS)]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_printed_objects_one_after_another_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(record, indent=2, ensure_ascii=False) for record in RECORDS), encoding="utf-8")
    assert texts(path) == TEXTS
    path.write_text(json.dumps(RECORDS[0], indent=4), encoding="utf-8")
    assert texts(path) == TEXTS[:1]
    assert [document.id for document in source(path).documents()] == [f"{name}:0"]


def test_marks_and_line_ends_of_other_systems_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for end in ("\r", "\r\n", "\n"):
        path.write_bytes(("\ufeff" + end.join(json.dumps(record) for record in RECORDS) + end).encode())
        assert texts(path) == TEXTS


def test_a_dotted_column_is_a_column_or_inside_another(tmp_path: Path) -> None:
    lines, table = tmp_path / "a.jsonl", tmp_path / "a.parquet"
    nested = [{"meta": {"body": "inside"}}, {"meta": None}, {"meta": {"body": None}}]
    lines.write_text("\n".join(json.dumps(record) for record in nested))
    pq.write_table(pa.Table.from_pylist(nested), table)
    assert texts(lines, column="meta.body") == texts(table, column="meta.body") == ["inside"]
    named = [{"meta": {"body": "inside"}, "meta.body": "named"}]
    lines.write_text(json.dumps(named[0]))
    pq.write_table(pa.Table.from_pylist(named), table)
    assert texts(lines, column="meta.body") == texts(table, column="meta.body") == ["named"]
    assert source(table, column="meta.body").capacity() == len("named") + 2


def test_a_key_that_is_twice_there_hurts_only_as_the_column(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "id": 2, "text": "fine", "meta": {"text": 1}}')
    assert texts(path) == ["fine"]


def test_what_is_broken_far_into_a_file_is_found_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from calib.sources import file

    monkeypatch.setattr(file, "LOOK", 100)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' * 100 + "broken\n")
    source(path).check()
    with pytest.raises(SettingsError, match="line 101: not valid JSON"):
        list(source(path).documents())


def test_a_folder_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from calib import files

    monkeypatch.setattr(files, "MAX_ENTRIES", 3)
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text("text")
    for path in (tmp_path, f"{tmp_path}/*.txt"):
        with pytest.raises(SettingsError, match="has more than 3 files and folders; name fewer"):
            source(path).check()


def test_a_text_file_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from calib import files

    monkeypatch.setattr(files, "MAX_TEXT", 1000)
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"x" * 2000))
    with pytest.raises(SettingsError, match="a.txt.gz: more than 1,000 characters; split it into several files"):
        list(source(path).documents())


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "a.jsonl")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(SettingsError, match="a.jsonl cannot be read: Permission denied"):
        source(path).check()
