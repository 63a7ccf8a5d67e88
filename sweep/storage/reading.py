"""The tables of a results folder as they are read: a file for each trial, and packed ones.

A trial that is in several files counts once. A launch packs while it runs and leaves the own files of packed trials
for some minutes, for readers that have listed them; a reader that comes later looks at the packed ones alone. The hard
case is a trial that was made again after it was packed: its own file, which is younger, counts. So does an own file
that is gone when it is read: it is found where it was packed.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from sweep.storage import packs
from sweep.storage.patience import patiently
from sweep.storage.schemas import DETAILS, KEYS, TABLES
from sweep.storage.store import PACKED, Entry, ResultsError, Store, is_table_file, stem

FILES_AT_ONCE = 64  # a scan of thousands of files keeps 60 KB for each of them, one of 64 gives that back
READS = 5  # of a table whose files are packed meanwhile: a listing then names files that are gone


class TableReader(Store):
    """A folder, or an `s3://`, `gs://` URI, that holds the tables of a study."""

    def __init__(self, root: str | os.PathLike[str], patience: float = 0.0) -> None:
        """Raises ResultsError for a URI that holds a secret, OSError and ValueError for one that cannot be opened."""
        super().__init__(root, patience)
        self._indexes: dict[str, packs.Index] = {}  # by path: a packed file never changes
        self._sound: dict[str, bool] = {}  # by path: whether a packed file of `trials/` is what was written

    def files(self, name: str) -> list[str]:
        """Paths of the table's whole files but for those that were packed, sorted, then those of packed ones, in the
        order of packing."""
        return self._needed(name)

    def _needed(self, name: str, without: Collection[str] = ()) -> list[str]:
        own = self._own(name)  # listed first: what is packed between the two listings is seen twice
        packed = {path: entry for path, entry in self.packed_entries(name).items() if path not in without}
        superfluous = packs.packed_from(own, packed, self._index_or_none)
        return sorted(own.keys() - superfluous - set(without)) + packs.in_order(packed)

    def _index_or_none(self, path: str) -> packs.Index:
        try:
            return self.index(path)
        except (OSError, ValueError):  # a damaged file: who reads it, says so
            return {}

    def left_files(self, name: str) -> set[str]:
        """Paths of own files that only readers who came before their packing need."""
        return packs.packed_from(self._own(name), self.packed_entries(name), self._index_or_none)

    def own_files(self, name: str) -> dict[str, int]:
        """Bytes by path of the files that hold one trial (or set) each, from one listing."""
        return {path: entry.size for path, entry in self._own(name).items()}

    def _own(self, name: str) -> dict[str, Entry]:
        return {path: entry for path, entry in self.entries(name).items() if is_table_file(path)}

    def packed_files(self, name: str) -> list[str]:
        """Paths of the table's packed files, in the order of packing."""
        return packs.in_order(self.packed_entries(name))

    def packed_entries(self, name: str) -> dict[str, Entry]:
        """The table's packed files by path."""
        before = None
        while (found := self.entries(f"{name}/{PACKED}")) != before:  # one may take another's place meanwhile
            if not found:
                return {}
            before = found
        return {path: entry for path, entry in found.items() if is_table_file(path)}

    def pack_fault(self, name: str, path: str) -> str | None:
        """What is wrong with a packed file of the table, None when nothing is."""
        size = self.filesystem.get_file_info(path).size
        return packs.fault(self.filesystem, name, path, size or 0)

    def index(self, path: str) -> packs.Index:
        """The trials in a packed file, with the bytes of their own files. Raises OSError and ValueError."""
        if path not in self._indexes:
            read = partial(packs.read_index, self.filesystem, path)
            self._indexes[path] = patiently(read, self.patience, "reading packed trials")
        return self._indexes[path]

    def sizes(self, name: str, without: Collection[str] = ()) -> dict[str, int]:
        """Bytes of each trial's (or set's) own file as it is, or was before it was packed, by key."""
        own = {stem(path): size for path, size in self.own_files(name).items() if path not in without}
        packed = [self.index(path) for path in self.packed_files(name) if path not in without]
        return {key: size for found in (*packed, own) for key, size in found.items()}

    def keys(self, name: str) -> set[str]:
        """Keys (trial or calibration ids) that have rows in the table, read from names and footers alone."""
        own = {stem(path) for path in self._own(name)}
        return own.union(*(self.index(path) for path in self.packed_files(name)))

    def status(self, trial_id: str) -> str | None:
        """`ok` or `failed` as the trial's committed row says now; None when there is none, or a damaged one."""
        return patiently(partial(self._status, trial_id), self.patience, f"reading trials/{trial_id}.parquet")

    def _status(self, trial_id: str) -> str | None:
        path = f"{self.path}/trials/{trial_id}.parquet"
        if self.filesystem.get_file_info(path).type != pafs.FileType.File:
            return "ok" if self._is_packed(trial_id) else None  # no others are packed
        with self.filesystem.open_input_file(path) as file:
            try:
                return str(pq.read_table(file, columns=["status"]).column("status")[0].as_py())
            except (pa.ArrowInvalid, IndexError):
                return None

    def _is_packed(self, trial_id: str) -> bool:
        """Whether there is a packed row. Packed files do not change: those that were looked at are not opened again."""
        for path in (listed := self.packed_files("trials")):
            if path not in self._sound:
                self._sound[path] = self.pack_fault("trials", path) is None
        return any(self._sound[path] and trial_id in self.index(path) for path in listed)

    def scan(self, name: str) -> pl.LazyFrame:
        """The table as a lazy frame, all files together. Rows of trials that failed or never committed are left out."""
        frame = self.scan_paths(name, self.files(name))
        if name in DETAILS:
            trials = self.scan_paths("trials", self.files("trials"))
            frame = frame.join(trials.filter(pl.col("status") == "ok").select("trial_id"), on="trial_id", how="semi")
        return frame

    def read(self, name: str, without: Collection[str] = ()) -> pl.DataFrame:
        """The whole table but for the files `without`, sorted by its key. Raises ResultsError for a key twice."""
        frame = patiently(partial(self._read, name, without), self.patience, f"reading {name}")
        if twice := _first_twice(frame, KEYS[name]):
            raise ResultsError(f"{self.root}/{name}: {twice} occurs twice")
        return frame

    def _read(self, name: str, without: Collection[str]) -> pl.DataFrame:
        for tries_left in reversed(range(READS)):
            try:
                ended = self._ok_trials(without) if name in DETAILS else None
                return _in_order(self._parts(name, without, ended), KEYS[name])
            except FileNotFoundError:  # it was packed after the listing: the next one says where it is
                if not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    def _ok_trials(self, without: Collection[str]) -> pl.DataFrame:
        parts = self._parts("trials", without, columns=("trial_id", "status"))
        return pl.concat(parts).filter(pl.col("status") == "ok").select("trial_id")

    def _parts(
        self, name: str, without: Collection[str], ended: pl.DataFrame | None = None, columns: Sequence[str] = ()
    ) -> list[pl.DataFrame]:
        """The table, a few files at a time, each part sorted by its key; with `ended`, the rows of these trials."""
        parts = []
        for frame in self._frames(name, self._needed(name, without) if without else self.files(name)):
            part = frame.select(columns or pl.all()).collect()
            if ended is not None:
                part = part.join(ended, on="trial_id", how="semi")
            parts.append(part.sort([key for key in KEYS[name] if key in part.columns]))
        return parts

    def read_file(self, name: str, path: str) -> pl.DataFrame:
        """One file of a table, with the table's columns."""
        return self._scan_files(name, [path]).collect()

    def read_exactly(self, name: str, paths: Sequence[str], columns: Sequence[str] = ()) -> pl.DataFrame:
        """Some own files of a table. Raises ResultsError for one that cannot be read or has columns that it should not
        have."""
        try:
            parts = [self._scan_files(name, list(paths[i : i + FILES_AT_ONCE]), strict=True) for i in _steps(paths)]
            return pl.concat([part.select(columns or pl.all()).collect() for part in parts])
        except (pl.exceptions.PolarsError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise ResultsError(
                f"{self.root}/{name}: a file there is damaged or of another version ({reason}); a launch with the same "
                "study names it and makes its trial again"
            ) from None

    def scan_paths(self, name: str, paths: list[str]) -> pl.LazyFrame:
        """These files together. A trial that is in several of them counts once."""
        return pl.concat(list(self._frames(name, paths, at_once=max(len(paths), 1))))

    def _frames(self, name: str, paths: list[str], at_once: int = FILES_AT_ONCE) -> Iterator[pl.LazyFrame]:
        own = [path for path in paths if not packs.is_packed(path)]
        packed = paths if not own else [path for path in paths if packs.is_packed(path)]
        if own or not packed:
            yield from (self._scan_files(name, own[first : first + at_once]) for first in _steps(own, at_once))
        indexes = {path: self.index(path) for path in packed}
        for path, elsewhere in packs.superseded(map(stem, own), packed, indexes):
            frame = self._scan_files(name, [path])
            yield frame.filter(~pl.col(KEYS[name][0]).is_in(sorted(elsewhere))) if elsewhere else frame

    def _scan_files(self, name: str, paths: list[str], *, strict: bool = False) -> pl.LazyFrame:
        schema = TABLES[name]
        wanted = pl.DataFrame(pa.Table.from_batches([], schema=schema)).schema  # empty_table() would import pandas
        if not paths:
            return pl.LazyFrame(schema=wanted)
        if self.is_local:
            extra: Literal["raise", "ignore"] = "raise" if strict else "ignore"
            return pl.scan_parquet(paths, schema=wanted, missing_columns="insert", extra_columns=extra)
        import pyarrow.dataset as ds

        files = ds.dataset(paths, schema=schema, filesystem=self.filesystem, format="parquet")
        for file in files.get_fragments() if strict else ():
            if extras := set(file.physical_schema.names) - set(schema.names):
                raise pl.exceptions.SchemaError(f"extra column {min(extras)} in {file.path}")
        return pl.scan_pyarrow_dataset(files)


def trials_in_parts(results: TableReader, name: str, trial_ids: Sequence[str], at_once: int) -> Iterator[pl.LazyFrame]:
    """The rows of some trials, part by part: `at_once` own files, or what one packed file holds of the others.

    All rows of a trial stand in one part, next to each other. Polars may hand the row groups of a file on in any
    order, and a trial of a packed file can lie in two of them, so those parts are sorted.
    """
    files = results.files(name)
    own = {stem(path): path for path in files if not packs.is_packed(path)}
    mine = [own[trial_id] for trial_id in trial_ids if trial_id in own]
    for first in range(0, len(mine), at_once):
        yield results._scan_files(name, mine[first : first + at_once])
    rest = sorted(set(trial_ids) - own.keys())
    if rest:  # a file of another's making may hold trials under any name
        read = set(mine)
        for frame in results._frames(name, [path for path in files if path not in read], at_once):
            yield frame.filter(pl.col("trial_id").is_in(rest)).sort(KEYS[name])


def _steps(paths: Sequence[str], at_once: int = FILES_AT_ONCE) -> range:
    return range(0, max(len(paths), 1), at_once)


def _in_order(parts: list[pl.DataFrame], key: Sequence[str]) -> pl.DataFrame:
    """Parts that are sorted, as one frame that is: without a second copy of it where they follow one another."""
    full = sorted((part for part in parts if part.height), key=lambda part: str(part.item(0, key[0])))
    whole = pl.concat(full or parts[:1])
    ends = [(part.select(key).row(0), part.select(key).row(-1)) for part in full]
    known = all(value is not None for pair in ends for row in pair for value in row)
    follow = known and all(before[1] <= after[0] for before, after in pairwise(ends))
    return whole if follow else whole.sort(key)


def _first_twice(frame: pl.DataFrame, key: Sequence[str]) -> dict[str, Any] | None:
    """The first key that a frame sorted by it holds twice."""
    same = pl.all_horizontal(pl.col(column).eq_missing(pl.col(column).shift(1)) for column in key)
    twice = frame.lazy().select(key).with_row_index("row").filter(same & (pl.col("row") > 0)).head(1).collect()
    return None if twice.is_empty() else twice.drop("row").row(0, named=True)
