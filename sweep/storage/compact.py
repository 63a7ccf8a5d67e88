"""Packing: many small files of finished trials become few, while readers read and whatever may be killed.

A thousand trials are four thousand files, and opening them costs a reader far more than their rows. The order keeps
everything readable at any moment: the packed files are written, read back and compared, and only then the trials' own
files are deleted; until then a trial is in both, and counts once. A launch packs while readers may have listed the own
files, so it leaves these for some minutes. The caller holds the lease, so that no other launch writes meanwhile. Failed
trials stay as they are, since they may run again, and so do those with a damaged file. Calibration sets stay as well:
they are few beside trials, and each is opened alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from sweep.storage import packs
from sweep.storage.schemas import DETAILS, KEYS
from sweep.storage.store import ResultsError, stem
from sweep.storage.tables import Results, arrow_table

PACKED_TABLES = (*DETAILS, "trials")  # in this order, as a trial writes them
TRIALS_A_FILE = 1000
BYTES_A_FILE = 64 * 2**20  # of one table: a study with many examples a trial is packed in smaller portions


@dataclass(frozen=True)
class Compaction:
    """What was done: trials that were packed, files of the tables before and after, and why others were left."""

    trials: int
    before: int
    after: int
    left: tuple[str, ...] = ()


def compact(
    results: Results,
    still_ours: Callable[[], None] = lambda: None,
    trials_a_file: int = TRIALS_A_FILE,
    bytes_a_file: int = BYTES_A_FILE,
    keep_seconds: float = 0.0,
) -> Compaction:
    """Pack the finished trials of a folder whose lease the caller holds; `still_ours` raises when it is lost.

    With `keep_seconds` own files stay so long after they were packed, and are deleted by a later call.

    Raises ResultsError for files that another version wrote, and for a packed file that does not read as written:
    nothing is deleted then.
    """
    before = _count(results)
    _finish_earlier(results, still_ours, keep_seconds)
    packed = {stem(path) for path in results.left_files("trials")}
    own = {
        name: {stem(path): (path, size) for path, size in results.own_files(name).items() if stem(path) not in packed}
        for name in PACKED_TABLES
    }
    sizes = {name: {key: size for key, (_, size) in files.items()} for name, files in own.items()}
    whole = sorted(_whole(results, sizes))
    number = _next_number(results)
    for portion in _portions(whole, sizes, trials_a_file, bytes_a_file):
        still_ours()
        for name in PACKED_TABLES:
            paths = [own[name][trial_id][0] for trial_id in portion]
            _pack(results, name, number, paths, {trial_id: sizes[name][trial_id] for trial_id in portion})
        still_ours()
        for name in PACKED_TABLES if keep_seconds == 0 else ():
            results.delete_files(own[name][trial_id][0] for trial_id in portion)
        number += 1
    rest = len(sizes["trials"]) - len(whole)
    left = (f"{rest:,} trials keep files of their own: they failed, or one of their files is not whole",) * bool(rest)
    return Compaction(len(whole), before, _count(results), left)


def _count(results: Results) -> int:
    return sum(len(results.own_files(name)) + len(results.packed_files(name)) for name in PACKED_TABLES)


def _finish_earlier(results: Results, still_ours: Callable[[], None], keep_seconds: float) -> None:
    """Delete the own files of trials whose very rows are packed in every table, and have been for `keep_seconds`."""
    until = results.now() - keep_seconds if keep_seconds else math.inf
    old = [path for path, entry in results.packed_entries("trials").items() if entry.written / 1e9 <= until]
    packed = [path for path in old if results.pack_fault("trials", path) is None]
    own = {name: {stem(path): path for path in results.own_files(name)} for name in PACKED_TABLES}
    twice: set[str] = set().union(*own.values()).intersection(key for path in packed for key in results.index(path))
    for name in PACKED_TABLES:
        twice -= _unlike(results, name, twice, own[name])
    still_ours()
    for files in own.values():
        results.delete_files(path for trial_id, path in files.items() if trial_id in twice)


def _unlike(results: Results, name: str, trial_ids: Collection[str], own: Mapping[str, str]) -> set[str]:
    """Those of the trials that are not packed in this table, or with other rows than their own file has."""
    sound = [path for path in results.packed_files(name) if results.pack_fault(name, path) is None]
    listed = {trial_id for path in sound for trial_id in results.index(path)}
    missing = set(trial_ids) - listed
    left = {stem(path) for path in results.left_files(name)}
    both = sorted((set(trial_ids) & own.keys()) - missing - left)
    if not both:
        return missing
    rows = _by_trial(results.read_exactly(name, [own[trial_id] for trial_id in both]), name)
    packed = results.scan_paths(name, sound).filter(pl.col("trial_id").is_in(both)).collect()
    there = _by_trial(packed, name)
    return missing | {key for key in both if not _same(rows.get(key), there.get(key))}


def _same(one: pl.DataFrame | None, other: pl.DataFrame | None) -> bool:
    """Whether both have the same rows; no rows are no frame."""
    return one is other if one is None or other is None else one.equals(other)


def _by_trial(frame: pl.DataFrame, name: str) -> dict[str, pl.DataFrame]:
    parts = frame.sort(KEYS[name]).partition_by("trial_id", as_dict=True)
    return {str(trial_id): part for (trial_id,), part in parts.items()}


def _whole(results: Results, sizes: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Trials that ended well and whose own files have the bytes that their rows state."""
    paths = [f"{results.path}/trials/{trial_id}.parquet" for trial_id in sizes["trials"]]
    for trial_id, status, files in results.read_exactly("trials", paths, ("trial_id", "status", "files")).iter_rows():
        there = {name: sizes[name][trial_id] for name in DETAILS if trial_id in sizes[name]}
        stated = json.loads(files) if files else there  # rows of earlier versions: any size will do
        if status == "ok" and len(there) == len(DETAILS) and there == stated:
            yield trial_id


def _next_number(results: Results) -> int:
    return 1 + max((packs.number_of(path) for name in PACKED_TABLES for path in results.packed_files(name)), default=0)


def _portions(
    trial_ids: Sequence[str], sizes: Mapping[str, Mapping[str, int]], trials: int, size: int
) -> Iterator[list[str]]:
    """The trials in order, at most `trials` at a time and `size` bytes of any table, but at least one."""
    portion: list[str] = []
    filled = dict.fromkeys(PACKED_TABLES, 0)
    for trial_id in trial_ids:
        grown = {name: filled[name] + sizes[name][trial_id] for name in PACKED_TABLES}
        if portion and (len(portion) == trials or max(grown.values()) > size):
            yield portion
            portion, grown = [], {name: sizes[name][trial_id] for name in PACKED_TABLES}
        portion.append(trial_id)
        filled = grown
    if portion:
        yield portion


def _pack(results: Results, name: str, number: int, paths: Sequence[str], index: packs.Index) -> None:
    """Write one packed file and read it back. Raises ResultsError when the two differ in a single value."""
    rows = results.read_exactly(name, paths).sort(KEYS[name])
    if foreign := set(rows.get_column("trial_id").unique()) - index.keys():
        raise ResultsError(
            f"{results.root}/{name}: a file holds rows of another trial ({min(foreign)}); nothing is lost"
        )
    path = results.put_packed(name, number, arrow_table(name, rows), index)
    if not results.read_file(name, path).equals(rows) or results.index(path) != index:
        results.put_aside(path)
        raise ResultsError(f"{path} does not read as it was written, and was set aside; no other file was touched")
