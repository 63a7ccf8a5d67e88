"""Local files that hold text: which ones a path means, which content they have, and their records one after another.

The hard part is the errors: a person who brings their own text meets a wrong path, a wrong column or a broken line
first, and each of these is one sentence that names the file, the line and the remedy.
"""

from __future__ import annotations

import functools
import glob
import gzip
import hashlib
import itertools
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from calib.records import CHUNK, Doubled, json_values
from calib.settings import SettingsError, identity, one_line, shown, suggestion

T = TypeVar("T")

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
MAX_ENTRIES = 100_000  # files and folders that a folder or a pattern is searched for
LOOK = 1 << 24  # characters of text that are read before any work starts, in search of what is broken
MAX_TEXT = 1 << 28  # characters of a text file
SIGNATURES = {  # of files that are no text, by their first bytes
    b"\x1f\x8b": "gzip-compressed; let its name end in .gz",
    b"\x28\xb5\x2f\xfd": "Zstandard-compressed; unpack it (zstd -d)",
    b"BZh": "bzip2-compressed; unpack it",
    b"\xfd7zXZ": "xz-compressed; unpack it",
    b"PK\x03\x04": "a ZIP archive; unpack it",
    b"PAR1": "a Parquet file; let its name end in .parquet",
    b"\xff\xfe": "UTF-16 text; convert it to UTF-8",
    b"\xfe\xff": "UTF-16 text; convert it to UTF-8",
    b"%PDF": "a PDF; extract its text",
}

TEXT = "text"  # the column, where nothing else is said


def format_of(name: str) -> str | None:
    """`json`, `parquet` or `text` by the end of the file's name; None when it is none of these."""
    lower = name.lower()
    return next((kind for suffix, kind in FORMATS.items() if lower.endswith(suffix)), None)


def expanded(path: str, place: str) -> Path:
    """The path with the home folder for `~`. Raises SettingsError that names `place`."""
    if not path or "\0" in path:
        raise SettingsError(f"{place}: expected a path, got {shown(path)}")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # the home of a user that is not there
        raise SettingsError(f"{place}: {shown(path)} cannot be used: {error}") from None


def absolute(path: str, place: str) -> Path:
    """The path with the home folder for `~`, from the working directory. Raises SettingsError that names `place`."""
    return expanded(path, place).absolute()


def find_files(path: str | Sequence[str], kinds: Sequence[str] = ("json", "parquet", "text")) -> list[Path]:
    """The files that a path, folder, glob or list of these means, in the order given; folders and globs sorted.

    Raises SettingsError when something is missing, of an unknown format, or empty.
    """
    asked = [path] if isinstance(path, str) else list(path)
    try:
        found = [file for item in asked for file in _expand(item, kinds)]
        if not found:
            raise SettingsError("path: names no file")
        _check_files(found, kinds)
    except OSError as error:
        raise SettingsError(
            f"path: {shown(error.filename or path)} cannot be used: {error.strerror or error}"
        ) from None
    return found


def _check_files(found: Sequence[Path], kinds: Sequence[str]) -> None:
    seen: dict[str, Path] = {}
    for file in found:
        other = seen.setdefault(os.path.realpath(file), file)
        if other is not file:
            raise SettingsError(f"path: {file} is named twice{f' (it is {other} as well)' if other != file else ''}")
        if format_of(file.name) not in kinds:
            raise SettingsError(f"path: {file} has an unknown format; expected a name that ends in {_endings(kinds)}")
        if file.stat().st_size == 0:
            raise SettingsError(f"path: {file} is empty")


def content_hash(files: Sequence[Path]) -> str:
    """A hash over the content of files in their order, the same wherever they lie."""
    whole = hashlib.sha256()
    for file in files:
        try:
            status = file.stat()
            whole.update(_file_hash(str(file.absolute()), status.st_size, status.st_mtime_ns))
        except OSError as error:
            raise SettingsError(f"{file} cannot be read: {error.strerror}") from None
    return f"sha256:{whole.hexdigest()[:32]}"


def revision_of(files: Sequence[Path]) -> str:
    """A hash over the content of files and the way they are read: the same bytes give other texts as `.txt`.

    JSON is the default and leaves no mark; nor does Parquet, whose content can be read in no other way.
    """
    kinds = [format_of(file.name) for file in files]
    if "text" not in kinds:
        return content_hash(files)
    return f"{content_hash(files)}:{'text' if set(kinds) == {'text'} else identity(kinds)}"


def json_records(file: Path, column: str = "") -> Iterator[tuple[str, Any]]:
    """(place, record) of a file of JSON records: a line each, one after another over several lines, or in a list.

    Raises SettingsError at the first broken record.
    """
    with open_text(file) as stream:
        values = json_values(_chunks(file, stream), column)
        while True:
            try:
                place, record = next(values)
            except StopIteration:
                return
            except SettingsError as error:
                if str(error).startswith("line "):
                    _refuse_other_formats(file)
                    raise SettingsError(f"{file}, {error}") from None
                raise
            yield f"{file}, {place}", record


def parquet_values(file: Path, column: str, batch_size: int = 256) -> Iterator[tuple[str, str | None]]:
    """(place, text) of the text column of a Parquet file, read in batches; a dotted column may be inside others.

    Raises SettingsError when there is no such text column, or the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(file) as parquet:
            names = _path_of(parquet.schema_arrow, column, str(file))
            for batch in parquet.iter_batches(batch_size=batch_size, columns=[".".join(names)]):
                values = batch.column(batch.schema.names.index(names[0]))
                for value in values.to_pylist():
                    for name in names[1:]:
                        value = value.get(name) if value is not None else None
                    row += 1
                    yield f"{file}, row {row}", value
    except pa.ArrowInvalid:
        raise SettingsError(f"{file} cannot be read: not a Parquet file, or a damaged one") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = one_line(" ".join(str(error).split()))[:200]
        raise SettingsError(f"{file} cannot be read after row {row}: {reason}") from None


def parquet_records(file: Path, batch_size: int = 256) -> Iterator[tuple[str, Any]]:
    """(place, record) of each row of a Parquet file. Raises SettingsError when the file is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=batch_size):
                for record in batch.to_pylist():
                    row += 1
                    yield f"{file}, row {row}", record
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = one_line(" ".join(str(error).split()))[:200]
        raise SettingsError(f"{file} cannot be read after row {row}: {reason}") from None


def text_column(path: str | Sequence[str]) -> str:
    """The column that holds the text of files: `text`, or the only one with text in the first record.

    Where that is not clear it is `text`; reading the files says which columns there are.
    """
    try:
        first = _first_record(find_files(path)[0])
    except SettingsError:  # who reads them says what is wrong, with its place
        return TEXT
    texts = [name for name, value in first.items() if isinstance(value, str)] if isinstance(first, dict) else []
    return texts[0] if TEXT not in texts and len(texts) == 1 else TEXT


def _first_record(file: Path) -> object:
    """None of a file of plain text, and of one without records."""
    kind = format_of(file.name)
    if kind == "text":
        return None
    records = json_records(file) if kind == "json" else parquet_records(file, batch_size=1)
    return next((record for _, record in records), None)


def _path_of(schema: Any, column: str, file: str) -> list[str]:
    """The names of the column and those it is inside of. A column of the very name goes before one that is inside."""
    import pyarrow as pa

    path = [column] if column in schema.names else column.split(".")
    fields = list(schema)
    for name in path:
        same = [field for field in fields if field.name == name]
        if not same:
            raise missing_column(file, column, schema.names)
        if len(same) > 1:
            raise SettingsError(f"{file}: the column {shown(name)} is there {len(same)} times; keep one")
        kind = same[0].type
        fields = list(kind) if pa.types.is_struct(kind) else []
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        texts = [field.name for field in schema if pa.types.is_string(field.type)]
        raise SettingsError(
            f"{file}: column '{column}' holds {shown(str(kind))[1:-1]}, not text{suggestion(column, texts)}"
        )
    return path


def text_of(record: Any, column: str, place: str) -> str | None:
    """The text of a record: its `column`, or the record itself when it is a string. None means no text.

    `meta.body` is the column of this name where there is one, otherwise `body` inside the object `meta`.
    """
    if isinstance(record, str):
        return written(record, place)
    if not isinstance(record, Mapping):
        raise SettingsError(f"{place}: expected an object with the column '{column}', got {shown(record)}")
    value: Any = record
    for name in [column] if column in record else column.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise missing_column(place, column, [str(key) for key in record])
        if isinstance(value, Doubled) and name in value.twice:
            raise SettingsError(f"{place}: the key {shown(name)} is there twice; keep one")
        value = value[name]
        if value is None:
            return None
    if not isinstance(value, str):
        raise SettingsError(f"{place}: column '{column}' holds {shown(value)}, not text")
    return written(value, f"{place}: column '{column}'")


def written(text: str, place: str) -> str:
    """The text, when it can be written as UTF-8. Raises SettingsError for half a surrogate pair (`\\ud800` in JSON)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SettingsError(
            f"{place}: half a surrogate pair, {shown(text[error.start])} at character {error.start + 1}, which is no "
            "text; leave it out"
        ) from None
    return text


def missing_column(place: str, column: str, columns: Sequence[str]) -> SettingsError:
    """`my.jsonl, line 1: no column 'txt', did you mean 'text'?`"""
    return SettingsError(f"{place}: no column '{column}'{suggestion(column, columns)}")


def open_text(file: Path) -> IO[str]:
    """The file as UTF-8 text (a byte-order mark is dropped), unpacked when its name ends in .gz."""
    try:
        if file.name.lower().endswith(".gz"):
            return gzip.open(file, "rt", encoding="utf-8-sig")
        return open(file, encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from None


def read_text(file: Path, characters: int | None = None) -> str:
    """The whole text of a file, or at least its first so many characters.

    Raises SettingsError when it is not UTF-8 text or not the gzip it claims to be.
    """
    parts, length = [], 0
    with open_text(file) as stream:
        for chunk in _chunks(file, stream):
            parts.append(chunk)
            length += len(chunk)
            if characters is not None and length >= characters:
                break
            if length > MAX_TEXT:
                raise SettingsError(f"{file}: more than {MAX_TEXT:,} characters; split it into several files")
    return "".join(parts)


def absolute_files(files: Any, folder: Path) -> Any:
    """`data_files` of a task whose YAML lies in `folder`, read relative to it; addresses stay as they are."""
    if isinstance(files, dict):
        return {split: absolute_files(value, folder) for split, value in files.items()}
    if isinstance(files, (list, tuple)):
        return [absolute_files(value, folder) for value in files]
    if not isinstance(files, str) or "://" in files or "\0" in files or Path(files).is_absolute():
        return files
    beside = folder / files
    return str(beside.absolute()) if _exists(beside) or not _exists(Path(files)) else files


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _chunks(file: Path, stream: IO[str]) -> Iterator[str]:
    """The text of a file, some at a time. Raises SettingsError when it is no text."""
    while chunk := _guarded(file, lambda: stream.read(CHUNK)):
        if "\0" in chunk:
            _refuse_other_formats(file)
            raise SettingsError(f"{file}: holds NUL bytes, so it is not UTF-8 text; convert it to UTF-8")
        yield chunk


def _refuse_other_formats(file: Path) -> None:
    """Say what a file is that turned out not to be what its name says."""
    with open(file, "rb") as stream:
        start = stream.read(8)
    for signature, what in SIGNATURES.items():
        if start.startswith(signature) and not file.name.lower().endswith(".gz"):
            raise SettingsError(f"{file}: is {what}")


def _expand(item: str, kinds: Sequence[str]) -> list[Path]:
    path = expanded(item, "path")
    if path.is_dir():
        inside = sorted(file for file in _few(path.rglob("*"), item) if file.is_file() and file.name[0] != ".")
        usable = [file for file in inside if format_of(file.name) in kinds]
        if not usable:
            raise SettingsError(f"path: the folder {item} holds no file that ends in {_endings(kinds)}")
        return usable
    if path.is_file():
        return [path]
    if path.exists():
        raise SettingsError(f"path: {item} is no regular file")
    if GLOB_CHARACTERS & set(item):
        found = _few((Path(match) for match in glob.iglob(str(path), recursive=True)), item)
        matches = sorted(match for match in found if match.is_file())
        if not matches:
            raise SettingsError(f"path: no file matches {item} (looked in {Path.cwd()})")
        return matches
    if path.is_symlink():
        raise SettingsError(f"path: {item} is a link that leads nowhere, or in a circle")
    raise SettingsError(f"path: no such file or folder: {item}{_near(path)}")


def _few(paths: Iterable[Path], item: str) -> Iterator[Path]:
    """The paths, as long as they are as many as a person can mean."""
    for number, path in enumerate(itertools.islice(paths, MAX_ENTRIES + 1)):
        if number == MAX_ENTRIES:
            raise SettingsError(f"path: {item} has more than {MAX_ENTRIES:,} files and folders; name fewer")
        yield path


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


def _guarded(file: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except UnicodeDecodeError as error:
        _refuse_other_formats(file)
        raise SettingsError(f"{file}: not UTF-8 text (byte {error.start}); convert it to UTF-8") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise SettingsError(f"{file} cannot be read: not a whole gzip file ({error})") from None
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from None
