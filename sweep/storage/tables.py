"""One study's results: its tables, a file per trial or set in each, written so that a kill at any moment hurts nothing.

The row in `trials/` is written last: it commits the trial. Rows of the other tables whose trial never committed are
orphans; readers leave them out and a rerun replaces them. Trials may later be packed, many to a file
(`sweep/storage/compact.py`), which no reader notices.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from sweep.storage import packs
from sweep.storage.reading import TableReader
from sweep.storage.schemas import KEYS, SCHEMA_VERSION, TABLES
from sweep.storage.store import PACKED, ResultsError


@dataclass(frozen=True)
class TrialRows:
    """Everything that one trial writes. `trial` is the row that commits it."""

    trial: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    layers: Sequence[Mapping[str, Any]] = ()


class Results(TableReader):
    """One study's results: `root` is a folder or an `s3://`, `gs://` URI that holds the tables."""

    def write_trial(self, rows: TrialRows) -> None:
        """Write the trial's tables; its row in `trials/` last. Writing the same trial again replaces it."""
        self.commit({**rows.trial, "files": json.dumps(self.write_details(rows))})

    def write_details(self, rows: TrialRows) -> dict[str, int]:
        """Write everything but the row in `trials/`, without which readers do not see it. Returns bytes by table."""
        trial_id = rows.trial["trial_id"]
        tables = {"metrics": rows.metrics, "samples": rows.samples, "layers": rows.layers}
        return {
            name: self.write_table(name, trial_id, [{"trial_id": trial_id, **row} for row in table])
            for name, table in tables.items()
        }

    def commit(self, trial: Mapping[str, Any]) -> None:
        """Write the row in `trials/` that makes the trial's other rows count."""
        self.write_table("trials", trial["trial_id"], [{"schema_version": SCHEMA_VERSION, **trial}])

    def write_table(self, name: str, key: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """One file of one table, checked against its schema and key; returns its bytes.

        Raises ResultsError on a broken contract.
        """
        schema = TABLES[name]
        known = set(schema.names)
        for row in rows:
            if unknown := set(row) - known:
                raise ResultsError(
                    f"{name}: unknown columns {sorted(unknown)}; define them in sweep/storage/schemas.py"
                )
        columns = {field.name: [row.get(field.name) for row in rows] for field in schema}
        table = pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema}, schema=schema)
        return self.put_table(name, key, table)

    def put_table(self, name: str, key: str, table: pa.Table) -> int:
        """One file of a table that is columns already; returns its bytes.

        Raises ResultsError unless it has the schema and key.
        """
        if not table.schema.equals(TABLES[name]):
            raise ResultsError(f"{name}: columns differ from the schema in sweep/storage/schemas.py")
        _check_key(name, table)
        content = _encode(name, table)
        self.put(f"{name}/{key}.parquet", content)
        return int(content.size)

    def put_packed(self, name: str, number: int, table: pa.Table, index: packs.Index) -> str:
        """A packed file of a table, sorted by its key; returns its path."""
        content = packs.encode(table, index)
        relative = f"{name}/{PACKED}/{packs.name_for(number, content)}"
        self.put(relative, content)
        if self.is_local:  # what it holds may be deleted next: its name must be on the disk before
            folder = os.open(f"{self.path}/{name}/{PACKED}", os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return f"{self.path}/{relative}"

    def remove_trials(self, trial_ids: Collection[str]) -> None:
        """Take back rows in `trials/`, those that are there, so that the trials count as missing."""
        for trial_id in trial_ids:
            self.delete_if_there(f"{self.path}/trials/{trial_id}.parquet")
        for path in self.packed_files("trials"):
            if self.pack_fault("trials", path) is None and (gone := set(trial_ids) & self.index(path).keys()):
                self._without(path, gone)

    def _without(self, path: str, trial_ids: Collection[str]) -> None:
        """Put a packed file of `trials/` in the place of another that holds these trials as well."""
        frame = self.read_file("trials", path).filter(~pl.col("trial_id").is_in(list(trial_ids)))
        index = {key: size for key, size in self.index(path).items() if key not in trial_ids}
        if index:
            self.put_packed("trials", packs.number_of(path), arrow_table("trials", frame), index)
        self.filesystem.delete_file(path)

    def put_aside(self, path: str) -> None:
        """Give a damaged packed file a name that no reader takes for a table's."""
        self.filesystem.move(path, f"{path}.damaged")

    def delete_files(self, paths: Iterable[str]) -> None:
        """Remove files of tables."""
        for path in paths:
            self.delete_if_there(path)


def arrow_table(name: str, frame: pl.DataFrame) -> pa.Table:
    """The frame with the schema of the table `name`."""
    return frame.to_arrow().select(TABLES[name].names).cast(TABLES[name])


def _encode(name: str, table: pa.Table) -> pa.Buffer:
    """Parquet for the rows of one trial: what a thousand such files would repeat (statistics, the meaning of columns)
    is left out, and a single row is not compressed. That is a third of the bytes and of the time to write."""
    several = table.num_rows > 1
    words = [field.name for field in TABLES[name] if field.type == pa.string()] if several else False
    buffer = pa.BufferOutputStream()
    pq.write_table(
        table,
        buffer,
        compression="zstd" if several else "none",
        use_dictionary=words,
        write_statistics=False,
        store_schema=False,
    )
    return buffer.getvalue()


def _check_key(name: str, table: pa.Table) -> None:
    key = list(KEYS[name])
    for column in key:
        if table.column(column).null_count:
            raise ResultsError(f"{name}: {column} is a key and must not be null")
    distinct = table.select(key).group_by(key, use_threads=False).aggregate([]).num_rows  # threads cost more than rows
    if distinct != table.num_rows:
        raise ResultsError(f"{name}: two rows share the key {key}")
