"""Packed files: one Parquet file with the rows of many trials, in the folder `packed` of a table.

A name says all that is needed to trust it: `000002-41773-9f3c01aa.parquet` is of the second packing, holds 41,773
bytes (a cut-off file shows in a listing), and is never written again with other content. The footer lists the trials
with the bytes that each one's own file had, as their rows in `trials/` state them. The hard case is a trial that is in
several files, since a packing was killed or the trial was made again: its own file counts, unless it is the very one
that was packed, then the latest packing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from sweep.storage.schemas import KEYS
from sweep.storage.store import PACKED, Entry, stem

NAME = re.compile(r"([0-9]{6,})-([0-9]+)-[0-9a-f]{8}")
INDEX = b"packed"  # key of the footer: JSON, bytes of each trial's own file by trial
ROW_GROUP = 65_536  # rows that a reader of few trials reads at least

Index = Mapping[str, int]


def is_packed(path: str) -> bool:
    return path.rpartition("/")[0].endswith(f"/{PACKED}")


def number_of(path: str) -> int:
    """The number of the packing, 0 for a name that no packing gives."""
    match = NAME.match(path.rpartition("/")[2])
    return int(match.group(1)) if match else 0


def in_order(paths: Iterable[str]) -> list[str]:
    """The paths in the order of packing."""
    return sorted(paths, key=lambda path: (number_of(path), path))


def packed_from(own: Mapping[str, Entry], packed: Mapping[str, Entry], index: Callable[[str], Index]) -> set[str]:
    """Those of the trials' own files that packed ones were made from: as long as these say, and older. (A trial that is
    made again may have a file of the same length.)"""
    if not own:
        return set()
    made = {
        (trial_id, size): packed[path].written for path in in_order(packed) for trial_id, size in index(path).items()
    }
    return {path for path, entry in own.items() if entry.written < made.get((stem(path), entry.size), 0)}


def encode(table: pa.Table, index: Index) -> pa.Buffer:
    """The content of a packed file. `table` is sorted by its key, so that few row groups hold a trial."""
    metadata = {**(table.schema.metadata or {}), INDEX: json.dumps(index, separators=(",", ":")).encode()}
    buffer = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd", row_group_size=ROW_GROUP)
    return buffer.getvalue()


def name_for(number: int, content: pa.Buffer) -> str:
    """The name of a packed file of this content."""
    return f"{number:06d}-{content.size}-{hashlib.sha256(content).hexdigest()[:8]}.parquet"


def read_index(filesystem: pafs.FileSystem, path: str) -> dict[str, int]:
    """The trials in a packed file, with the bytes of their own files. Raises OSError and ValueError."""
    metadata = pq.read_metadata(path, filesystem=filesystem).metadata or {}
    index = json.loads(metadata.get(INDEX, b"null"))
    if not isinstance(index, dict) or not all(type(size) is int for size in index.values()):
        raise ValueError("it does not list its trials")
    return index


def fault(filesystem: pafs.FileSystem, name: str, path: str, size: int) -> str | None:
    """What keeps a packed file of the table `name` from being what was written, None when nothing does."""
    match = NAME.fullmatch(stem(path))
    if match is None:
        return "has no name that packing gives"
    if size != int(match.group(2)):
        return f"has {size:,} bytes instead of {int(match.group(2)):,}"
    try:
        read_index(filesystem, path)
        missing = set(KEYS[name]) - set(pq.read_schema(path, filesystem=filesystem).names)
    except (OSError, ValueError) as error:  # those of Arrow are ValueErrors
        return f"cannot be read ({str(error).splitlines()[0][:120]})"
    return f"has no column {min(missing)}" if missing else None


def superseded(
    loose: Iterable[str], packs: Sequence[str], indexes: Mapping[str, Index]
) -> Iterator[tuple[str, set[str]]]:
    """Each packed file with those of its trials that do not count there. `packs` are in the order of packing."""
    taken = set(loose)
    for path in reversed(packs):
        yield path, taken & indexes[path].keys()
        taken |= indexes[path].keys()
