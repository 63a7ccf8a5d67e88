"""Texts of one's own that cannot be read: broken records, other formats, files that are not there.

Every file is met as a calibration source; some are met again as held-out text, inside a mixture, and as the local copy
of a data set of the hub, which read files in the same way.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.bad_inputs.common import STUDY, Case, write_study

Build = Callable[[Path], list[str]]
Place = Callable[..., dict[str, Any]]

GOOD = b'{"text": "a fine text"}\n'


def as_calibration(path: str, **settings: Any) -> dict[str, Any]:
    source = {"source": "file", "path": path, **settings}
    return {"calibration": {**STUDY["calibration"], "source": source}}


def as_heldout(path: str, **settings: Any) -> dict[str, Any]:
    return {"evaluation": {**STUDY["evaluation"], "heldout": [{"source": "file", "path": path, **settings}]}}


def as_part(path: str, **settings: Any) -> dict[str, Any]:
    parts = [{"source": "books", "share": 0.5}, {"source": "file", "path": path, "share": 0.5, **settings}]
    return {"calibration": {**STUDY["calibration"], "source": {"source": "mixture", "parts": parts}}}


def as_copy(path: str, **settings: Any) -> dict[str, Any]:
    return {"calibration": {**STUDY["calibration"], "source": {"source": "c4", "path": path, **settings}}}


def file(name: str, content: bytes | str, place: Place = as_calibration, **settings: Any) -> Build:
    """A file `name` with this content, named by the study."""

    def build(folder: Path) -> list[str]:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return [write_study(folder, **place(name, **settings)), "--dry-run"]

    return build


def parquet(table: Callable[[], pa.Table], place: Place = as_calibration, **settings: Any) -> Build:
    def build(folder: Path) -> list[str]:
        pq.write_table(table(), folder / "a.parquet")
        return [write_study(folder, **place("a.parquet", **settings)), "--dry-run"]

    return build


def cut_parquet(folder: Path) -> list[str]:
    pq.write_table(pa.table({"text": ["a fine text"] * 100}), folder / "a.parquet")
    whole = (folder / "a.parquet").read_bytes()
    (folder / "a.parquet").write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    return [write_study(folder, **as_calibration("a.parquet")), "--dry-run"]


def path(path: str | list[str], prepare: Callable[[Path], None] = lambda folder: None) -> Build:
    """A path to what `prepare` puts into the folder."""

    def build(folder: Path) -> list[str]:
        prepare(folder)
        return [write_study(folder, **as_calibration(path)), "--dry-run"]  # type: ignore[arg-type]

    return build


def link_in_a_circle(folder: Path) -> None:
    (folder / "a.jsonl").symlink_to("b.jsonl")
    (folder / "b.jsonl").symlink_to("a.jsonl")


def folders_in_a_circle(folder: Path) -> None:
    (folder / "texts").mkdir()
    (folder / "texts" / "a.jsonl").write_bytes(GOOD)
    (folder / "texts" / "again").symlink_to(".")


def one_file_by_two_names(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(GOOD)
    (folder / "b.jsonl").symlink_to("a.jsonl")


def empty_folder(folder: Path) -> None:
    (folder / "texts").mkdir()


def struct_of(value: Any) -> Callable[[], pa.Table]:
    return lambda: pa.table({"text": [{"body": value}]})


HALF = r"half a surrogate pair, '\\ud800' at character 3, which is no text"
DEEP = r"not valid JSON \(lists and objects nested more deeply than can be read\)"
JSON = r"source 'a': .*a\.jsonl, line {}: not valid JSON \("

RECORDS: dict[str, Case] = {
    "half a surrogate pair": Case(
        file("a.jsonl", GOOD + b'{"text": "ab\\ud800"}'), rf"source 'a': .*a\.jsonl, line 2: column 'text': {HALF}"
    ),
    "half a surrogate pair in a list of texts": Case(
        file("a.json", b'["x", "ab\\ud800"]'), rf"a\.json, item 2: {HALF}"
    ),
    "half a surrogate pair in held-out text": Case(
        file("a.jsonl", GOOD + b'{"text": "ab\\ud800"}', as_heldout),
        rf"evaluation\.heldout .*line 2: column 'text': {HALF}",
    ),
    "half a surrogate pair in a mixture": Case(
        file("a.jsonl", GOOD + b'{"text": "ab\\ud800"}', as_part), rf"source 'a': .*line 2: column 'text': {HALF}"
    ),
    "half a surrogate pair in a copy of c4": Case(
        file("a.jsonl", b'{"text": "ab\\ud800"}', as_copy), rf"source 'c4': .*record 1: column 'text': {HALF}"
    ),
    "half a surrogate pair in a key": Case(
        file("a.jsonl", b'{"te\\ud800": "x"}'), r"line 1: no column 'text'; choose from te\\ud800"
    ),
    "a hundred thousand brackets": Case(
        file("a.jsonl", GOOD + b'{"a": ' + b"[" * 100_000), rf"a\.jsonl, line 2: {DEEP}"
    ),
    "a hundred thousand brackets that close": Case(
        file("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"), rf"a\.jsonl, line 1: {DEEP}"
    ),
    "a hundred thousand braces": Case(file("a.json", b'[{"a": ' + b'{"a": ' * 100_000), rf"a\.json, line 1: {DEEP}"),
    "a hundred thousand brackets in a copy of c4": Case(
        file("a.jsonl", GOOD + b'{"a": ' + b"[" * 100_000, as_copy), rf"source 'c4': .*a\.jsonl, line 2: {DEEP}"
    ),
    "a number of five thousand digits": Case(
        file("a.jsonl", GOOD + b'{"text": "x", "n": ' + b"1" * 5000 + b"}"),
        r"line 2: not valid JSON \(an integer of thousands",
    ),
    "a column twice": Case(
        file("a.jsonl", GOOD + b'{"text": "x", "text": "y"}'), r"line 2: the key 'text' is there twice; keep one"
    ),
    "a column twice, once escaped": Case(
        file("a.jsonl", b'{"text": "x", "te\\u0078t": "y"}'), r"line 1: the key 'text' is there twice"
    ),
    "a dotted column twice": Case(
        file("a.jsonl", b'{"text": {"body": "x", "body": "y"}}', column="text.body"),
        r"line 1: the key 'body' is there twice",
    ),
    "a dotted column that is not there": Case(
        file("a.jsonl", b'{"text": {"bdy": "x"}}', column="text.body"), r"line 1: no column 'text\.body'"
    ),
    "a dotted column inside text": Case(
        file("a.jsonl", b'{"text": "x"}', column="text.body"), r"line 1: no column 'text\.body'"
    ),
    "no such column": Case(
        file("a.jsonl", b'{"txet": "x"}'), r"a\.jsonl, line 1: no column 'text', did you mean 'txet'\?"
    ),
    "no such column later on": Case(
        file("a.jsonl", GOOD * 3000 + b'{"txt": "x"}'), r"a\.jsonl, line 3001: no column 'text'"
    ),
    "a number for a text": Case(file("a.jsonl", GOOD + b'{"text": 7}'), r"line 2: column 'text' holds 7, not text"),
    "a list for a text": Case(
        file("a.jsonl", b'{"text": ["a", "b"]}'), r"line 1: column 'text' holds \['a', 'b'\], not text"
    ),
    "an object for a text": Case(
        file("a.jsonl", b'{"text": {"body": "x"}}'), r"line 1: column 'text' holds \{'body': 'x'\}, not"
    ),
    "a number for a record": Case(file("a.jsonl", b"7\n"), r"line 1: expected an object with the column 'text', got 7"),
    "a list for a record": Case(
        file("a.json", b'[["a"]]'), r"item 1: expected an object with the column 'text', got \['a'\]"
    ),
    "a record that is cut off": Case(file("a.jsonl", GOOD + b'{"text": "cut'), JSON.format(2)),
    "a record that is cut off in the middle": Case(file("a.jsonl", b'{"text": \n' + GOOD), JSON.format(1)),
    "a printed object that is cut off": Case(file("a.jsonl", b'{\n  "text": "x",\n  "n": 1\n'), JSON.format(1)),
    "a printed object with a comma too many": Case(
        file("a.json", b'{\n  "text": "x",\n}\n'), r"a\.json, line 1: not valid JSON \("
    ),
    "a list that is cut off": Case(
        file("a.json", b'[{"text": "x"},\n{"text": "y"}'), r"line 2: not valid JSON \(.*no end"
    ),
    "a list and more": Case(
        file("a.json", b'["x"]\n["y"]'), r"line 2: not valid JSON \(more text after the end of the list"
    ),
    "a line break inside a text": Case(file("a.jsonl", b'{"text": "x\ny"}'), JSON.format(1)),
    "single quotes": Case(file("a.jsonl", b"{'text': 'x'}"), JSON.format(1)),
    "words": Case(file("a.jsonl", b"just words\nand more"), JSON.format(1)),
    "only blank texts": Case(
        file("a.jsonl", b'{"text": " "}\n{"text": null}'), r"column 'text' of .*a\.jsonl holds no usable text"
    ),
    "too little text": Case(
        file("a.jsonl", GOOD), r"calibration\.sets: source 'a': at most [0-9]+ tokens, which make at most 0 windows"
    ),
    "too little held-out text": Case(
        file("a.jsonl", GOOD, as_heldout), r"evaluation\.heldout .*source 'a': at most [0-9]+ tokens"
    ),
}

FORMATS: dict[str, Case] = {
    "an empty file": Case(file("a.jsonl", b""), r"source 'a': path: .*a\.jsonl is empty"),
    "a file of blanks": Case(file("a.jsonl", b" \n\n\t\n"), r"column 'text' of .*a\.jsonl holds no usable text"),
    "a text file of blanks": Case(file("a.txt", b" \n\n"), r"source 'a': .*a\.txt holds no usable text"),
    "a byte-order mark alone": Case(file("a.txt", b"\xef\xbb\xbf"), r"source 'a': .*a\.txt holds no usable text"),
    "NUL bytes": Case(file("a.txt", b"a\0b"), r"a\.txt: holds NUL bytes, so it is not UTF-8 text"),
    "NUL bytes in records": Case(
        file("a.jsonl", GOOD + b"\0\0\0\n"), r"a\.jsonl: holds NUL bytes, so it is not UTF-8 text"
    ),
    "UTF-16 records": Case(
        file("a.jsonl", GOOD.decode().encode("utf-16")), r"a\.jsonl: is UTF-16 text; convert it to UTF-8"
    ),
    "UTF-16 records without a mark": Case(
        file("a.jsonl", GOOD.decode().encode("utf-16-le")), r"a\.jsonl: holds NUL bytes"
    ),
    "UTF-16 text": Case(file("a.txt", "some text".encode("utf-16")), r"a\.txt: is UTF-16 text; convert it to UTF-8"),
    "Latin-1": Case(file("a.txt", "über".encode("latin-1")), r"a\.txt: not UTF-8 text \(byte 0\); convert it to UTF-8"),
    "gzip that does not say so": Case(
        file("a.jsonl", gzip.compress(GOOD)), r"a\.jsonl: is gzip-compressed; let its name end in"
    ),
    "Zstandard that does not say so": Case(
        file("a.jsonl", b"\x28\xb5\x2f\xfd\x24\x10\x81\x00\x00abc"), r"a\.jsonl: is Zstandard-compressed; unpack it"
    ),
    "a ZIP archive": Case(file("a.jsonl", b"PK\x03\x04rest of it"), r"a\.jsonl: is a ZIP archive; unpack it"),
    "Parquet that does not say so": Case(
        file("a.jsonl", b"PAR1rest of it"), r"a\.jsonl: is a Parquet file; let its name end in"
    ),
    "gzip that is none": Case(file("a.jsonl.gz", GOOD), r"a\.jsonl\.gz cannot be read: not a whole gzip file"),
    "gzip that is cut off": Case(
        file("a.jsonl.gz", gzip.compress(GOOD * 99)[:-9]), r"cannot be read: not a whole gzip file"
    ),
    "gzip of another thing": Case(
        file("a.jsonl.gz", gzip.compress(b"\xff\x00")), r"a\.jsonl\.gz: not UTF-8 text \(byte 0\)"
    ),
    "CSV": Case(file("a.csv", b"text\nx\n"), r"a\.csv has an unknown format; expected a name that ends in \.jsonl"),
    "no ending": Case(file("a", GOOD), r"path: .*a has an unknown format; expected a name that ends in \.jsonl"),
    "Parquet that is none": Case(file("a.parquet", GOOD), r"a\.parquet cannot be read: not a Parquet file"),
    "Parquet that is none, in a copy of c4": Case(
        file("a.parquet", GOOD, as_copy), r"source 'c4': .*a\.parquet cannot be read"
    ),
    "Parquet that is damaged": Case(cut_parquet, r"source 'a': .*a\.parquet cannot be read"),
    "Parquet without the column": Case(
        parquet(lambda: pa.table({"txt": ["x"]})), r"a\.parquet: no column 'text', did you mean 'txt'"
    ),
    "Parquet with the column twice": Case(
        parquet(lambda: pa.table([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])),
        r"the column 'text' is there 2 times",
    ),
    "Parquet with numbers": Case(
        parquet(lambda: pa.table({"text": [1, 2]})), r"a\.parquet: column 'text' holds int64, not text"
    ),
    "Parquet with bytes": Case(
        parquet(lambda: pa.table({"text": [b"x"]})), r"a\.parquet: column 'text' holds binary, not text"
    ),
    "Parquet with lists": Case(parquet(lambda: pa.table({"text": [["x"]]})), r"column 'text' holds list<.*>, not text"),
    "Parquet with objects": Case(parquet(struct_of("x")), r"column 'text' holds struct<body: string>, not text"),
    "Parquet without the column inside": Case(parquet(struct_of("x"), column="text.bdy"), r"no column 'text\.bdy'"),
    "Parquet with a number inside": Case(
        parquet(struct_of(1), column="text.body"), r"column 'text\.body' holds int64, not text"
    ),
    "Parquet of blanks": Case(
        parquet(lambda: pa.table({"text": ["", " "]})), r"column 'text' of .*a\.parquet holds no usable text"
    ),
    "Parquet of nothing": Case(parquet(lambda: pa.table({"text": pa.array([], pa.string())})), r"holds no usable text"),
}

PATHS: dict[str, Case] = {
    "a file that is not there": Case(
        path("a.jsonn", lambda folder: (folder / "a.jsonl").touch()),
        r"no such file or folder: .*a\.jsonn, did you mean 'a\.jsonl'",
    ),
    "a folder that is not there": Case(
        path("texts/a.jsonl"), r"no such file or folder: .*\(there is no folder .*texts\)"
    ),
    "a folder that is empty": Case(
        path("texts", empty_folder), r"path: the folder .*texts holds no file that ends in \.jsonl"
    ),
    "a pattern that matches nothing": Case(path("*.jsonl"), r"path: no file matches .*\*\.jsonl \(looked in "),
    "a link in a circle": Case(
        path("a.jsonl", link_in_a_circle), r"a\.jsonl (is a link that leads nowhere|cannot be used)"
    ),
    "folders in a circle": Case(
        path("texts/**/*.jsonl", folders_in_a_circle), r"a\.jsonl is named twice \(it is .* as well\)"
    ),
    "one file by two names": Case(
        path("*.jsonl", one_file_by_two_names), r"b\.jsonl is named twice \(it is .*a\.jsonl as well\)"
    ),
    "one file twice": Case(
        path(["a.jsonl", "a.jsonl"], lambda folder: (folder / "a.jsonl").write_bytes(GOOD) and None),
        r"a\.jsonl is named twice",
    ),
    "a pipe": Case(
        path("a.jsonl", lambda folder: os.mkfifo(folder / "a.jsonl")), r"path: .*a\.jsonl is no regular file"
    ),
    "a name that no disk takes": Case(path("x" * 300 + ".jsonl"), r"path: .* cannot be used: File name too long"),
    "a home that is not there": Case(
        path("~nobody-of-this-name/a.jsonl"), r"calibration\.source\.path: '~nobody.*cannot be used"
    ),
    "no path": Case(path([]), r"source 'file': path: names no file"),
    "an empty path": Case(path(""), r"source 'file': path: "),
    "a path that is a number": Case(path(5), r"calibration\.source\.path: expected text or a list, got 5"),  # type: ignore[arg-type]
    "a path in a list that is a number": Case(path(["a", 5]), r"calibration\.source\.path\[1\]: expected text, got 5"),  # type: ignore[list-item]
}

CASES: dict[str, Case] = {**RECORDS, **FORMATS, **PATHS}
