"""Text data sets of the Hugging Face hub, read as a stream: only as much is fetched as the pool needs.

Files are named one by one (`hf://datasets/OWNER/NAME@REVISION/FILE`) and read by the text and Parquet readers of
`datasets`, so loading scripts, dataset cards and default configurations play no part. Local copies of the same files
give the same texts, and are read as all local files are (`calib/files.py`). A stream has no row numbers that survive,
so the id of a document is a hash of its text.

The hard part is honesty about the pool. A set of 128 windows needs a few hundred documents out of hundreds of millions;
which of them can be drawn at all is decided by `documents`, `every` and `interleave`, and they are in the identity.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

from calib.files import (
    LOOK,
    find_files,
    format_of,
    json_records,
    missing_column,
    parquet_records,
    parquet_values,
    revision_of,
    text_of,
)
from calib.records import json_values
from calib.settings import INT32_MAX, SettingsError, identity, settings, shown
from calib.source import Document, Record, Source

T = TypeVar("T")

COMMIT = re.compile(r"[0-9a-f]{40}")
OUTSIDE = frozenset(  # errors of these packages are about the data or the way to it, not about this code
    {
        "aiohttp",
        "datasets",
        "fsspec",
        "httpcore",
        "httpcore2",
        "httpx",
        "httpx2",
        "huggingface_hub",
        "pyarrow",
        "requests",
    }
)


@settings
class HubSource(Source):
    """Base of the hub's data sets.

    `repository` and `revision` (a commit, so that the text never changes) say where; `column` holds the text. The pool
    from which windows are drawn is every `every`-th document of the stream, until there are `documents` of them; with
    `interleave` the stream takes documents from the files in turn. `path` reads local copies of the same files instead.
    """

    repository: str
    pinned: str = Field(default="main", alias="revision")
    column: str = "text"
    limit: Annotated[int, Field(ge=1, le=INT32_MAX, alias="documents")] = 20_000
    every: Annotated[int, Field(ge=1, le=INT32_MAX)] = 1
    interleave: bool = False
    path: str | list[str] | None = None

    def patterns(self) -> list[str]:
        """The files of the repository to read; `*` stands for any characters of a name."""
        raise NotImplementedError(f"{type(self).__name__} must say which files of {self.repository} it reads")

    def revision(self) -> str:
        return self.pinned if self.path is None else revision_of(self._local_files())

    def resolved_revision(self) -> str:
        if self.path is not None or COMMIT.fullmatch(self.pinned):
            return self.revision()
        return self._reach(lambda: str(_api().dataset_info(self.repository, revision=self.pinned).sha))

    @property
    def remote(self) -> bool:
        return self.path is None

    def check(self) -> None:
        if self.remote:
            return
        next(self.documents(), None)
        read = 0
        for text in islice(self._texts(), self.limit * self.every):  # the beginning, which of most files is all of it
            read += len(text or "")
            if read >= LOOK:
                break

    def documents(self) -> Iterator[Document]:
        """The pool; documents without text count for the stream, and are left out."""
        any_text = False
        for text in islice(self._texts(), 0, self.limit * self.every, self.every):
            if text and text.strip():
                any_text = True
                yield Document(hashlib.sha256(text.encode()).hexdigest()[:16], text)
        if not any_text:
            raise SettingsError(f"source '{self.label}': column '{self.column}' holds no usable text")

    def records(self) -> Iterator[Record]:
        found = self._merged(self._open_records)
        for number, values in enumerate(islice(found, 0, self.limit * self.every, self.every)):
            place = f"source '{self.label}': record {number * self.every + 1} of the stream"
            if not isinstance(values, Mapping):
                raise SettingsError(f"{place}: expected an object, got {shown(values)}")
            yield Record(identity(plain(values)), place, values)

    def text_in(self, record: Any, place: str) -> str | None:
        """The text that a record stands for, None when it has none."""
        return text_of(record, self.column, place)

    def _texts(self) -> Iterator[str | None]:
        """The text of each record of the stream, None where a record has none."""
        return self._merged(self._open)

    def _merged(self, opened: Callable[[str], Iterator[T]]) -> Iterator[T]:
        """What `opened` gives of each file, one file after another or in turns."""
        streams = [self._stream(file, opened) for file in self._files()]
        if not self.interleave:
            for stream in streams:
                yield from stream
            return
        while streams:
            for stream in list(streams):
                try:
                    item = next(stream)
                except StopIteration:
                    streams.remove(stream)
                else:
                    yield item

    def _stream(self, file: str, opened: Callable[[str], Iterator[T]]) -> Iterator[T]:
        """What `opened` gives of one file, opened when the first is asked for."""
        items = self._reach(lambda: opened(file))
        end = object()
        while (item := self._reach(lambda: next(items, end))) is not end:
            yield item

    def _open(self, file: str) -> Iterator[str | None]:
        place = f"source '{self.label}': {file}"
        for number, record in enumerate(self._named(self._records(file)), start=1):
            try:
                yield None if record is None else self.text_in(record, f"{place}, record {number}")
            except SettingsError as error:
                raise self._mine(error) from None

    def _open_records(self, file: str) -> Iterator[Any]:
        return self._named(self._records(file, whole=True))

    def _named(self, records: Iterator[Any]) -> Iterator[Any]:
        """The records; an error among them tells which source it was."""
        try:
            yield from records
        except SettingsError as error:
            raise self._mine(error) from None

    def _mine(self, error: SettingsError) -> SettingsError:
        known = str(error).startswith(f"source '{self.label}': ")
        return error if known else SettingsError(f"source '{self.label}': {error}")

    def _records(self, file: str, whole: bool = False) -> Iterator[Any]:
        """The records of one file; unless `whole`, their texts where those come alone. None where there is none."""
        if self.path is not None and format_of(file) == "parquet":
            found = parquet_records(Path(file)) if whole else parquet_values(Path(file), self.column)
            yield from (record for _, record in found)
        elif self.path is not None:
            yield from (record for _, record in json_records(Path(file), "" if whole else self.column))
        elif format_of(file) == "parquet":
            yield from _load("parquet", file, **({} if whole else {"columns": [self._top_column(file)]}))
        else:
            # The JSON reader of `datasets` takes the columns of the first megabytes for those of the whole file and
            # stops where another column changes its type (RedPajama's `meta` does), so records are parsed here.
            lines = (f"{row['text']}\n" for row in _load("text", file))
            try:
                yield from (record for _, record in json_values(lines, "" if whole else self.column))
            except SettingsError as error:
                raise SettingsError(f"{file}, {error}") from None

    def _top_column(self, file: str) -> str:
        """The column of a Parquet file of the hub that holds the text, or holds the column that does."""
        columns = _load("parquet", file).column_names or []
        top = self.column if self.column in columns else self.column.partition(".")[0]
        if top not in columns:
            raise missing_column(file, self.column, columns)
        return top

    def _files(self) -> list[str]:
        """Addresses of the files, in their order."""
        if self.path is not None:
            return [str(file) for file in self._local_files()]
        return self._reach(self._remote_files)

    def _remote_files(self) -> list[str]:
        found: list[str] = []
        for pattern in self.patterns():
            if "*" not in pattern:
                found.append(f"hf://datasets/{self.repository}@{self.pinned}/{pattern}")
                continue
            paths = _filesystem().glob(f"datasets/{self.repository}@{self.pinned}/{pattern}")
            if not paths:
                raise SettingsError(
                    f"source '{self.label}': no file matches {pattern} in the data set {self.repository}, "
                    f"revision {self.pinned}"
                )
            found += [f"hf://{path}" for path in sorted(paths)]
        return found

    def _local_files(self) -> list[Any]:
        assert self.path is not None
        try:
            return find_files(self.path, kinds=("json", "parquet"))
        except SettingsError as error:
            raise SettingsError(f"source '{self.label}': {error}") from None

    def _reach(self, action: Any) -> Any:
        """Run what may need the network; when the hub cannot be reached say what to fetch and where to put it."""
        try:
            return action()
        except SettingsError:
            raise
        except Exception as error:
            if not (isinstance(error, OSError) or type(error).__module__.split(".")[0] in OUTSIDE):
                raise
            raise SettingsError(self._unreachable(error)) from error

    def _unreachable(self, error: Exception) -> str:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if self.path is not None:
            return f"source '{self.label}': {self.path} cannot be read ({reason})"
        files = ", ".join(self.patterns())
        return (
            f"source '{self.label}': cannot read {files} of the data set {self.repository} at revision "
            f"{self.pinned} from the Hugging Face hub ({reason}). {self._way_out(error)}"
        )

    def _way_out(self, error: Exception) -> str:
        """What to do where the hub does not give the files."""
        if _refused(error):
            return (
                f"It is gated or private: accept its terms at https://huggingface.co/datasets/{self.repository}, and "
                "say who you are with hf auth login, or HF_TOKEN on every machine"
            )
        if isinstance(error, FileNotFoundError) and type(error).__name__ != "LocalEntryNotFoundError":
            return "Check repository, revision and files; what is private is not found without hf auth login"
        if cached := self._cached():
            return (
                f"An earlier download lies in the cache: write {{source: {self.source_name}, path: "
                f"{cached[0] if len(cached) == 1 else cached}}}"
            )
        return (
            "Without a network, fetch it where there is one: "
            f"hf download {self.repository} {' '.join(self.patterns())} --repo-type dataset --revision {self.pinned}, "
            f"then write {{source: {self.source_name}, path: FILES}}, or {{source: file, path: FILES, "
            f"column: {self.column}}}"
        )

    def _cached(self) -> list[str]:
        """The files in the cache of the hub's client; empty unless each pattern has one there."""
        from huggingface_hub import snapshot_download

        try:
            folder = snapshot_download(
                self.repository, repo_type="dataset", revision=self.pinned, local_files_only=True
            )
        except (OSError, ValueError):  # it was never downloaded, or its name can be none of the hub
            return []
        paths = [str(Path(folder, pattern)) for pattern in self.patterns()]
        return paths if all(glob.glob(path) for path in paths) else []


def _refused(error: BaseException | None) -> bool:
    """Whether the hub, or what it caused, says that one has to be somebody to read this."""
    while error is not None:
        if type(error).__name__ == "GatedRepoError" or re.search(
            r"\b40[13] (?:Client Error|Forbidden|Unauth)", str(error)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def plain(value: Any) -> Any:
    """The value as plain JSON: what JSON does not know (a date in a Parquet file) as its text."""
    return json.loads(json.dumps(value, default=str))


def _load(kind: str, file: str, **settings: Any) -> Any:
    from datasets import load_dataset

    return load_dataset(kind, data_files=[file], split="train", streaming=True, **settings)


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi()


def _filesystem() -> Any:
    from huggingface_hub import HfFileSystem

    return HfFileSystem()
