"""A results folder as files: local, or in an object store. Knows nothing of what its tables hold.

A file appears under its final name only when it is whole: a local rename, or one put in an object store. The hard case
is a kill at any moment: what is left then is a hidden temporary file, which no reader sees and a later launch removes.

Words of this room: a trial's *own* files hold its rows alone, *packed* ones those of many; its row in `trials/`
*commits* it; `started/` keeps the starts that no row counts yet; a *lease* keeps other launches out of the folder.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from sweep.storage.patience import patiently
from sweep.storage.schemas import TABLES

PACKED = "packed"  # the folder, in that of a table, of files that hold many trials


class ResultsError(RuntimeError):
    """The results folder cannot be used as asked. The message names the folder and the remedy."""


def inside(root: str, folder: str) -> str:
    """A folder inside another one. The options of a URI (`s3://bucket/path?region=eu-west-1`) stay at its end."""
    path, mark, options = root.partition("?") if "://" in root else (root, "", "")
    return f"{path.rstrip('/')}/{folder}{mark}{options}"


@dataclass(frozen=True)
class Entry:
    """A file as a listing tells it."""

    size: int  # bytes
    written: int  # nanoseconds since 1970 by the clock of the store


class Store:
    """A folder, or an `s3://`, `gs://` URI.

    An object store that cannot be reached is asked again for `patience` seconds before an OSError is raised.
    """

    def __init__(self, root: str | os.PathLike[str], patience: float = 0.0) -> None:
        """Raises ResultsError for a URI that holds a secret, OSError and ValueError for one that cannot be opened."""
        text = os.fspath(root)
        _refuse_secrets(text)
        if "://" in text:
            self.filesystem, self.path = pafs.FileSystem.from_uri(text)
        else:
            self.filesystem, self.path = pafs.LocalFileSystem(), str(Path(text).absolute())
        self.root = text
        self.is_local = isinstance(self.filesystem, pafs.LocalFileSystem)
        self.patience = 0.0 if self.is_local else patience

    def put(self, relative: str, content: pa.Buffer | bytes) -> None:
        """A file that appears whole or not at all."""
        final = f"{self.path}/{relative}"
        if not self.is_local:  # a put in an object store is atomic
            patiently(partial(self.upload, final, content), self.patience, f"writing {relative}")
            return
        folder, _, base = final.rpartition("/")
        os.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.{base}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, final)
        except OSError as error:
            if error.filename is None:  # a full disk does not say where it is
                raise OSError(error.errno, error.strerror, final) from error
            raise
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)

    def upload(self, path: str, content: pa.Buffer | bytes) -> None:
        with self.filesystem.open_output_stream(path) as file:
            file.write(content)

    # text files beside the tables (study.yaml, lease.json)

    def read_text(self, name: str) -> str | None:
        """The text of `name` in the results folder, or None when there is none. Raises UnicodeDecodeError."""
        return patiently(partial(self._read_text, name), self.patience, f"reading {name}")

    def _read_text(self, name: str) -> str | None:
        info = self.filesystem.get_file_info(f"{self.path}/{name}")
        if info.type != pafs.FileType.File:
            return None
        with self.filesystem.open_input_stream(info.path) as file:
            return bytes(file.read()).decode()

    def write_text(self, name: str, text: str) -> None:
        """Put the text file `name`, whole or not at all."""
        self.put(name, text.encode())

    def delete(self, name: str) -> None:
        """Remove the text file `name`."""
        self.filesystem.delete_file(f"{self.path}/{name}")

    def check_writable(self) -> None:
        """Raise OSError when nothing can be written there."""
        probe = f".probe.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp"
        self.put(probe, b"")
        self.delete(probe)

    def written(self, name: str) -> float | None:
        """When the text file `name` was written, by the clock of the store (seconds since 1970); None without one."""
        info = self.filesystem.get_file_info(f"{self.path}/{name}")
        return None if info.type != pafs.FileType.File else float(info.mtime_ns) / 1e9

    def now(self) -> float:
        """Seconds since 1970 by the clock of the store, which dates what is written there."""
        probe = f".clock.{uuid.uuid4().hex}.tmp"
        self.write_text(probe, "")
        try:
            return self.written(probe) or time.time()
        finally:
            self.delete(probe)

    # trials that were started and have not committed yet: started/TRIAL.ATTEMPT, empty files

    def mark_started(self, trial_id: str, attempt: int) -> None:
        """Remember that a trial was started, in case nobody lives to say so in its row."""
        path = f"{self.path}/started/{trial_id}.{attempt}"
        if self.is_local:
            os.makedirs(f"{self.path}/started", exist_ok=True)
            Path(path).touch()
        else:
            patiently(partial(self.upload, path, b""), self.patience, f"writing started/{trial_id}.{attempt}")

    def forget_started(self, trial_id: str, attempts: Iterable[int]) -> None:
        """The trial's row counts these starts by now."""
        for attempt in attempts:
            self.delete_if_there(f"{self.path}/started/{trial_id}.{attempt}")

    def started(self) -> dict[str, list[int]]:
        """Attempts of trials that were started and are not forgotten, by trial, from one listing."""
        found: dict[str, list[int]] = {}
        for path in self.listing("started"):
            trial_id, _, attempt = path.rpartition("/")[2].rpartition(".")
            if trial_id and re.fullmatch("[0-9]{1,6}", attempt):
                found.setdefault(trial_id, []).append(int(attempt))
        return found

    # files

    def listing(self, folder: str) -> dict[str, int]:
        """Bytes by path of the files in a folder, none when it is not there."""
        return {path: entry.size for path, entry in self.entries(folder).items()}

    def entries(self, folder: str) -> dict[str, Entry]:
        """The files in a folder by path, none when it is not there."""
        selector = pafs.FileSelector(f"{self.path}/{folder}", allow_not_found=True)
        found = patiently(partial(self.filesystem.get_file_info, selector), self.patience, f"listing {folder}")
        return {info.path: Entry(info.size, info.mtime_ns) for info in found if info.type == pafs.FileType.File}

    def delete_if_there(self, path: str) -> None:
        if self.filesystem.get_file_info(path).type == pafs.FileType.File:
            self.filesystem.delete_file(path)

    def remove_leftovers(self, age: float) -> int:
        """Remove temporary files of writers that were killed more than `age` seconds ago; returns how many."""
        if not self.is_local:  # a put that was cut off leaves nothing
            return 0
        names = [name + inner for name in TABLES for inner in ("", f"/{PACKED}")]
        left = [file for name in ("", *names) for file in (Path(self.path) / name).glob(".*.tmp")]
        now = self.now() if left else 0.0
        old = [file for file in left if now - file.stat().st_mtime > age]
        for file in old:
            file.unlink(missing_ok=True)
        return len(old)


def stem(path: str) -> str:
    """`1f` of `.../trials/1f.parquet`."""
    return path.rpartition("/")[2].removesuffix(".parquet")


def is_table_file(path: str) -> bool:
    """Whether a file is a whole one of a table: temporary ones are hidden."""
    return path.endswith(".parquet") and path.rpartition("/")[2][0] != "."


def _refuse_secrets(root: str) -> None:
    """Raise ResultsError for a key and a secret in a URI: it stands in logs, reports and lists of processes."""
    scheme, there, rest = root.partition("://")
    address, _, query = rest.partition("?")
    named = [part.partition("=")[0] for part in query.split("&")]
    if there and ("@" in address.partition("/")[0] or any("secret" in n or "key" in n or "token" in n for n in named)):
        bucket = address.rpartition("@")[2]
        raise ResultsError(
            f"--results {scheme}://{bucket}: the URI holds a key or a secret, which would stand in logs and reports; "
            "leave them out and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine "
            "a role"
        )
