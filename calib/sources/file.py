"""Your own text: JSON lines, Parquet or plain text; a file, a folder of them, a pattern, or a list of these.

A document is a record of a JSON or Parquet file, or a text file (or each of its paragraphs). Its id is the file's name
and the record's number, so it stays the same when the folder moves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from calib.files import (
    LOOK,
    find_files,
    format_of,
    json_records,
    parquet_records,
    parquet_values,
    read_text,
    revision_of,
    text_of,
)
from calib.settings import MAX_LABEL, SettingsError, one_line, settings, shown
from calib.source import Document, Record, Source, register

SMALL_PARQUET = 64 << 20  # bytes; the text of larger files is not counted beforehand


@register("file")
@settings
class File(Source):
    """Local text. `path`: a file, folder, pattern (`data/*.jsonl`) or list of these (.jsonl, .json, .parquet, .txt,
    .md; JSON and text also as .gz). `column`: where a record has its text. `unit`: whether a text file is one document
    or each paragraph (set off by blank lines) is one. `documents`: take only the first so many.
    """

    example: ClassVar[Mapping[str, Any]] = {"path": "my.jsonl"}

    path: str | list[str]
    column: str = "text"
    unit: Literal["file", "paragraph"] = "file"
    documents_limit: Annotated[int | None, Field(ge=1, alias="documents")] = None

    def default_label(self) -> str:
        return label_of(self.path if isinstance(self.path, str) else self.path[0] if self.path else "")

    def revision(self) -> str:
        return revision_of(self._files())

    def check(self) -> None:
        """Reads the beginning, which of most files is all of it."""
        read, usable = 0, False
        for document in islice(self._documents(self._files(), LOOK), self.documents_limit):
            usable = True
            read += len(document.text)
            if read >= LOOK:
                break
        if not usable:
            raise self._unusable()

    def documents(self) -> Iterator[Document]:
        usable = False
        for document in islice(self._documents(self._files()), self.documents_limit):
            usable = True
            yield document
        if not usable:
            raise self._unusable()

    def records(self) -> Iterator[Record]:
        files = self._files()
        names = _distinct_names(files)
        found = (record for file in files for record in self._records(file, names[file]))
        return islice(found, self.documents_limit)

    def _records(self, file: Path, name: str) -> Iterator[Record]:
        kind = format_of(file.name)
        if kind == "text":
            raise SettingsError(f"source '{self.label}': {file} is text without records; give JSON or Parquet")
        read = parquet_records(file) if kind == "parquet" else json_records(file)
        try:
            for number, (place, values) in enumerate(read):
                if not isinstance(values, Mapping):
                    raise SettingsError(f"{place}: expected an object, got {shown(values)}")
                yield Record(f"{name}:{number}", place, values)
        except SettingsError as error:
            raise SettingsError(f"source '{self.label}': {error}") from None

    def capacity(self) -> int | None:
        total = 0
        for file in self._files():
            size = _size_bound(file, self.column)
            if size is None:
                return None
            total += size
        return total

    def _files(self) -> list[Path]:
        try:
            return find_files(self.path)
        except SettingsError as error:
            raise SettingsError(f"source '{self.label}': {error}") from None

    def _unusable(self) -> SettingsError:
        files = self._files()
        where = f"column '{self.column}' of " if format_of(files[0].name) != "text" else ""
        return SettingsError(f"source '{self.label}': {where}{_names(files)} holds no usable text, only blank values")

    def _documents(self, files: list[Path], characters: int | None = None) -> Iterator[Document]:
        """The documents; with `characters`, of a text file only a beginning of at least so many."""
        names = _distinct_names(files)
        for file in files:
            for number, text in enumerate(self._texts(file, characters)):
                if text and text.strip():
                    yield Document(f"{names[file]}:{number}", text)

    def _texts(self, file: Path, characters: int | None) -> Iterator[str | None]:
        try:
            kind = format_of(file.name)
            if kind == "parquet":
                yield from (text for _, text in parquet_values(file, self.column))
            elif kind == "json":
                for place, record in json_records(file, self.column):
                    yield text_of(record, self.column, place)
            elif self.unit == "file":
                yield read_text(file, characters)
            else:
                yield from re.split(r"\n[ \t]*\n\s*", read_text(file, characters))
        except SettingsError as error:
            raise SettingsError(f"source '{self.label}': {error}") from None


def label_of(path: str) -> str:
    """`data/tickets.jsonl.gz` is called `tickets`, `data/*.txt` is called `data`."""
    name = Path(path).name
    while Path(name).suffix:
        name = Path(name).stem
    return one_line(name.strip("*?[]") or Path(path).parent.name or "file")[:MAX_LABEL]


def _size_bound(file: Path, column: str) -> int | None:
    """At least as many tokens as any tokenizer makes of the file: its bytes of text, and one more a document."""
    if file.name.lower().endswith(".gz"):
        return None  # the unpacked size is not known without unpacking
    if format_of(file.name) != "parquet":
        return file.stat().st_size + 2
    if file.stat().st_size > SMALL_PARQUET:
        return None
    return sum(len((text or "").encode()) + 2 for _, text in parquet_values(file, column))


def _distinct_names(files: list[Path]) -> dict[Path, str]:
    """Short names that do not depend on where the files lie: as many of the last folders as tell them apart."""
    for depth in range(1, max(len(file.parts) for file in files) + 1):
        names = {file: one_line("/".join(file.parts[-depth:])) for file in files}
        if len(set(names.values())) == len(files):
            break
    return names


def _names(files: list[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
