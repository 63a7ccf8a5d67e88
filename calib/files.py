"""Local files that hold text: which ones a path means, which content they have, and their records one after another.

The hard part is the errors: a person who brings their own text meets a wrong path, a wrong column or a broken line
first, and each of these is one sentence that names the file, the line and the remedy.
"""

from __future__ import annotations

import functools
import glob
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from calib.settings import SettingsError, identity, suggestion

FORMATS: dict[str, str] = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".jsonl.gz": "json",
    ".ndjson.gz": "json",
    ".json.gz": "json",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".txt.gz": "text",
}
GLOB_CHARACTERS = frozenset("*?[")


def format_of(name: str) -> str | None:
    """`json`, `parquet` or `text` by the end of the file's name; None when it is none of these."""
    lower = name.lower()
    return next((kind for suffix, kind in FORMATS.items() if lower.endswith(suffix)), None)


def find_files(path: str | Sequence[str], kinds: Sequence[str] = ("json", "parquet", "text")) -> list[Path]:
    """The files that a path, folder, glob or list of these means, in the order given; folders and globs sorted.

    Raises SettingsError when something is missing, of an unknown format, or empty.
    """
    asked = [path] if isinstance(path, str) else list(path)
    found = [file for item in asked for file in _expand(item, kinds)]
    if not found:
        raise SettingsError("path: names no file")
    seen: set[Path] = set()
    for file in found:
        if file in seen:
            raise SettingsError(f"path: {file} is named twice")
        seen.add(file)
        if format_of(file.name) not in kinds:
            raise SettingsError(f"path: {file} has an unknown format; expected a name that ends in {_endings(kinds)}")
        if file.stat().st_size == 0:
            raise SettingsError(f"path: {file} is empty")
    return found


def content_hash(files: Sequence[Path]) -> str:
    """A hash over the content of files in their order, the same wherever they lie."""
    whole = hashlib.sha256()
    for file in files:
        status = file.stat()
        whole.update(_file_hash(str(file.absolute()), status.st_size, status.st_mtime_ns))
    return f"sha256:{whole.hexdigest()[:32]}"


def revision_of(files: Sequence[Path]) -> str:
    """A hash over the content of files and the way they are read: the same bytes give other texts as `.txt`.

    JSON is the default and leaves no mark; nor does Parquet, whose content can be read in no other way.
    """
    kinds = [format_of(file.name) for file in files]
    if "text" not in kinds:
        return content_hash(files)
    return f"{content_hash(files)}:{'text' if set(kinds) == {'text'} else identity(kinds)}"


def json_records(file: Path) -> Iterator[tuple[str, Any]]:
    """(place, record) of a JSON-lines file or of a JSON list. Raises SettingsError at the first broken record."""
    with open_text(file) as stream:
        if _guarded(file, lambda: _is_json_list(stream)):
            for number, record in enumerate(_load_list(file, stream), start=1):
                yield f"{file}, item {number}", record
            return
        lines = _lines(file, stream)
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{file}, line {number}"
            try:
                yield place, json.loads(line)
            except json.JSONDecodeError as error:
                raise SettingsError(f"{place}: not valid JSON ({error.msg}, column {error.colno})") from None


def parquet_values(file: Path, column: str, batch_size: int = 1024) -> Iterator[str | None]:
    """The text column of a Parquet file, read in batches. Raises SettingsError when there is no such text column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file)
    except pa.ArrowInvalid:
        raise SettingsError(f"{file}: not a Parquet file") from None
    with parquet:
        schema = parquet.schema_arrow
        if column not in schema.names:
            raise missing_column(str(file), column, schema.names)
        kind = schema.field(column).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            texts = [field.name for field in schema if pa.types.is_string(field.type)]
            raise SettingsError(f"{file}: column '{column}' holds {kind}, not text{suggestion(column, texts)}")
        for batch in parquet.iter_batches(batch_size=batch_size, columns=[column]):
            yield from batch.column(0).to_pylist()


def text_of(record: Any, column: str, place: str) -> str | None:
    """The text of a record: its `column`, or the record itself when it is a string. None means no text."""
    if isinstance(record, str):
        return record
    if not isinstance(record, Mapping):
        raise SettingsError(f"{place}: expected an object with the column '{column}', got {_short(record)}")
    if column not in record:
        raise missing_column(place, column, [str(key) for key in record])
    value = record[column]
    if value is not None and not isinstance(value, str):
        raise SettingsError(f"{place}: column '{column}' holds {_short(value)}, not text")
    return value


def missing_column(place: str, column: str, columns: Sequence[str]) -> SettingsError:
    """`my.jsonl, line 1: no column 'txt', did you mean 'text'?`"""
    return SettingsError(f"{place}: no column '{column}'{suggestion(column, columns)}")


def open_text(file: Path) -> IO[str]:
    """The file as UTF-8 text (a byte-order mark is dropped), unpacked when its name ends in .gz."""
    if file.name.lower().endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8-sig")
    return open(file, encoding="utf-8-sig")


def read_text(file: Path) -> str:
    """The whole text of a file. Raises SettingsError when it is not UTF-8 text or not the gzip it claims to be."""
    with open_text(file) as stream:
        return _guarded(file, stream.read)


def _expand(item: str, kinds: Sequence[str]) -> list[Path]:
    path = Path(item).expanduser()
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        usable = [file for file in inside if format_of(file.name) in kinds]
        if not usable:
            raise SettingsError(f"path: the folder {item} holds no file that ends in {_endings(kinds)}")
        return usable
    if path.is_file():
        return [path]
    if GLOB_CHARACTERS & set(item):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
        if not matches:
            raise SettingsError(f"path: no file matches {item} (looked in {Path.cwd()})")
        return matches
    raise SettingsError(f"path: no such file or folder: {item}{_near(path)}")


def _near(path: Path) -> str:
    """A suggestion from the folder where the file was looked for."""
    folder = path.parent
    if not folder.is_dir():
        return f" (there is no folder {folder})"
    names = [entry.name for entry in folder.iterdir() if format_of(entry.name)]
    hint = suggestion(path.name, names)
    return hint if hint.startswith(", did") else f" (looked in {folder.absolute()})"


def _endings(kinds: Sequence[str]) -> str:
    return ", ".join(suffix for suffix, kind in FORMATS.items() if kind in kinds)


@functools.lru_cache(maxsize=4096)
def _file_hash(path: str, size: int, mtime_ns: int) -> bytes:
    """Size and time of change are part of the key, so an edited file is read again."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest() if hasattr(hashlib, "file_digest") else _digest(stream)


def _digest(stream: IO[bytes]) -> bytes:
    whole = hashlib.sha256()
    while block := stream.read(1 << 20):
        whole.update(block)
    return whole.digest()


def _is_json_list(stream: IO[str]) -> bool:
    start = stream.read(1)
    while start.isspace():
        start = stream.read(1)
    stream.seek(0)
    return start == "["


def _load_list(file: Path, stream: IO[str]) -> list[Any]:
    try:
        return list(_guarded(file, lambda: json.load(stream)))
    except json.JSONDecodeError as error:
        raise SettingsError(f"{file}, line {error.lineno}: not valid JSON ({error.msg})") from None


def _lines(file: Path, stream: IO[str]) -> Iterator[str]:
    while line := _guarded(file, stream.readline):
        yield line


def _guarded(file: Path, read: Any) -> Any:
    try:
        return read()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: not UTF-8 text (byte {error.start}); convert it to UTF-8") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise SettingsError(f"{file}: not a whole gzip file ({error})") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
