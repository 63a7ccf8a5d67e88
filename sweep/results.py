"""The Parquet contract: five tables, one file per trial in each, written so that a kill at any moment hurts nothing.

A file appears under its final name only when it is whole (a local rename, or one put in an object store), and the row
in `trials/` is written last: it commits the trial. Rows of the other tables whose trial never committed are orphans;
readers leave them out and a rerun replaces them. Columns are defined once, here, with their units.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from sweep.storage.patience import patiently

SCHEMA_VERSION = 1

# The first of these that a task has is its accuracy, in evaluation (`sweep/evaluation/metrics/accuracy.py`, which
# records it) and for rows that do not record it.
ACCURACY_METRICS = ("acc", "exact_match", "em", "accuracy", "acc_norm", "acc_bytes", "acc_mutual_info")


def _schema(columns: Mapping[str, tuple[pa.DataType, str]]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, metadata={"about": about}) for name, (kind, about) in columns.items()])


_text, _int, _small, _real, _flag = pa.string(), pa.int64(), pa.int32(), pa.float64(), pa.bool_()

TRIALS = _schema(
    {
        "trial_id": (_text, "hash of everything that can change the trial's numbers"),
        "schema_version": (_small, "version of these tables"),
        "study": (_text, "name of the study"),
        "status": (_text, "ok | failed"),
        "error": (_text, "null, or what failed and where, in one line"),
        "phase": (_text, "null, or the phase that failed: load | restore | compress | evaluate | write | worker"),
        "attempts": (_small, "how often the trial was started until this row"),
        "model": (_text, "name of the model in the study"),
        "model_id": (_text, "fingerprint of the model's files, or name@revision on the hub"),
        "model_commit": (_text, "commit of a hub model's files, null for a folder"),
        "parameters": (_int, "number of parameters, tied ones once"),
        "method": (_text, "method name; a composition joins its parts with '+'; 'dense' is the uncompressed model"),
        "method_label": (_text, "short label of method and settings for tables and figures"),
        "settings": (_text, "JSON: every setting of the method, defaults included"),
        "bits": (_real, "nominal bits per weight, null when the method does not quantize"),
        "sparsity": (_real, "nominal share of zero weights, null when the method does not prune"),
        "pattern": (_text, "n:m pattern (kept:group), null when unstructured"),
        "data_free": (_flag, "the method sees no calibration data: one trial per model, a null control"),
        "source": (_text, "label of the calibration source, null when data-free"),
        "set": (_small, "number of the disjoint calibration set, null when data-free"),
        "nsamples": (_small, "calibration windows"),
        "planned_nsamples": (_small, "nsamples of the study: null takes every window, and when data-free"),
        "seqlen": (_small, "tokens per calibration window"),
        "sampling": (_text, "how windows are drawn from the source"),
        "separator": (_text, "what joins documents that share a window, null when data-free"),
        "add_bos": (_flag, "each window begins with the BOS id, null when data-free"),
        "calibration_seed": (_int, "seed that draws the windows, null when data-free"),
        "calibration_id": (_text, "hash of the calibration spec, key of calibration/"),
        "calibration_hash": (_text, "sha256 of the calibration tokens"),
        "calibration_documents": (_int, "distinct documents in the calibration set"),
        "evaluation_id": (_text, "hash of settings, tasks and texts of the evaluation; one in a folder"),
        "requests_id": (_text, "hash of what requests are made from: evaluation, tokenizer and context"),
        "requests_hash": (_text, "hash of the requests themselves: documents, prompts, token ids, held-out windows"),
        "seed": (_int, "the study's seed"),
        "files": (_text, "JSON: bytes of the trial's file in each other table; null in rows of earlier versions"),
        "weights_hash": (_text, "hash over the exact bits of the compressed weights (sweep/models.py, weights_hash)"),
        "achieved_sparsity": (_real, "share of zeros over the linears in scope, after compression"),
        "average_bits": (_real, "stored bits per weight over the linears in scope, grids and outliers included"),
        "layer_error": (_real, "mean over the linears of their relative output error"),
        "fallbacks": (_int, "linears that needed a recorded numerical fallback"),
        "scorer": (
            _text,
            "how log-likelihoods were computed: packed, and with which attention | plain[, equal lengths | one by one]",
        ),
        "truncated_requests": (_int, "requests longer than the model's context, cut by lm-eval's rule"),
        "seconds_total": (_real, "wall seconds of the trial"),
        "seconds_restore": (_real, "wall seconds to give back the dense weights"),
        "seconds_compress": (_real, "wall seconds of the walk"),
        "seconds_tasks": (_real, "wall seconds of the task evaluation"),
        "seconds_windows": (_real, "wall seconds of perplexity and divergence"),
        "seconds_write": (_real, "wall seconds to write the other tables"),
        "peak_memory": (_int, "bytes: peak device memory on a GPU, peak resident memory of the worker on a CPU"),
        "dtype": (_text, "dtype of the weights during the trial"),
        "placement": (_text, "whole: all weights were on the device | streamed: one decoder block at a time"),
        "device": (_text, "name of the GPU or CPU"),
        "worker": (_text, "host and process of the worker"),
        "versions": (_text, "JSON: versions of Python, torch, transformers, lm_eval, ray, and of this package"),
        "commit": (_text, "git commit of the code, null outside a checkout; '+' marks local changes"),
        "started": (pa.timestamp("us", tz="UTC"), "when the trial started"),
    }
)

METRICS = _schema(
    {
        "trial_id": (_text, "key of trials/"),
        "kind": (_text, "task | group | perplexity | divergence"),
        "task": (_text, "lm-eval task or group name, or the label of the held-out text"),
        "metric": (_text, "acc, acc_norm, perplexity, js_divergence, kl_divergence, top1_agreement, ..."),
        "value": (_real, "null when it could not be computed; `reason` says why"),
        "stderr": (_real, "standard error over examples or windows, null when unknown"),
        "n": (_int, "number of examples, or windows"),
        "accuracy": (
            _text,
            "of a task: its metric that `score` in samples/ is about, '' when it has no accuracy",
        ),
        "reason": (_text, "why value is null, in one line; null when there is a value"),
    }
)

SAMPLES = _schema(
    {
        "trial_id": (_text, "key of trials/"),
        "task": (_text, "as in metrics/"),
        "doc_id": (_int, "number of the example in its task, or of the window in its held-out text"),
        "score": (
            _real,
            "the task's accuracy for this example; the mean is the metric of metrics/; null if none",
        ),
        "correct": (pa.bool_(), "`score` as right or wrong; null when it is neither 1 nor 0"),
        "correct_norm": (pa.bool_(), "length-normalised correctness (acc_norm); null when it is neither 1 nor 0"),
        "margin": (pa.float32(), "nats: log-likelihood of the right answer minus the best wrong one; null if unknown"),
        "loglikelihood": (pa.float32(), "nats: log-likelihood of the right answer; null if unknown"),
        "nll": (pa.float32(), "nats per token: mean negative log-likelihood of a held-out window"),
        "js": (pa.float32(), "nats: mean Jensen-Shannon divergence from the dense model over a held-out window"),
    }
)

LAYERS = _schema(
    {
        "trial_id": (_text, "key of trials/"),
        "step": (_small, "position in a composition of methods, 0 for a single method"),
        "block": (_small, "number of the decoder block"),
        "linear": (_text, "name of the linear inside its block"),
        "rows": (_small, "output features"),
        "cols": (_small, "input features"),
        "relative_error": (_real, "‖(W−Ŵ)X‖² / ‖WX‖² on the calibration inputs; on the weights alone if data-free"),
        "damping": (_real, "damping used, as a share of the mean diagonal; null when the method has none"),
        "retries": (_small, "how often damping was raised"),
        "fallback": (_text, "null, or the recorded numerical fallback"),
        "dead_columns": (_small, "inputs that were always zero"),
        "sparsity": (_real, "share of zero weights"),
        "bits": (_real, "stored bits per weight, grids and outliers included"),
        "outlier_share": (_real, "share of weights kept in full precision; null when the method keeps none"),
        "rank": (_small, "rank of a low-rank factorization, null otherwise"),
        "tokens": (_int, "input vectors in the statistic"),
        "seconds": (_real, "wall seconds of the solver"),
    }
)

CALIBRATION = _schema(
    {
        "calibration_id": (_text, "hash of the calibration spec"),
        "hash": (_text, "sha256 of the tokens of the whole set"),
        "source": (_text, "label of the source"),
        "revision": (_text, "revision of the source's data"),
        "spec": (_text, "JSON: the whole spec, source settings included"),
        "tokenizer": (_text, "fingerprint of the tokenizer"),
        "set": (_small, "number of the disjoint set"),
        "window": (_small, "number of the window in the set"),
        "tokens": (pa.list_(pa.int32()), "token ids of the window"),
        "text": (_text, "the window, decoded"),
        "documents": (pa.list_(_text), "ids of the documents in the window, in order"),
        "starts": (pa.list_(pa.int32()), "first token of each piece within its document"),
        "lengths": (pa.list_(pa.int32()), "tokens of each piece"),
    }
)

TABLES: dict[str, pa.Schema] = {
    "trials": TRIALS,
    "metrics": METRICS,
    "samples": SAMPLES,
    "layers": LAYERS,
    "calibration": CALIBRATION,
}
KEYS: dict[str, tuple[str, ...]] = {
    "trials": ("trial_id",),
    "metrics": ("trial_id", "task", "metric"),
    "samples": ("trial_id", "task", "doc_id"),
    "layers": ("trial_id", "step", "block", "linear"),
    "calibration": ("calibration_id", "window"),
}
DETAILS = ("metrics", "samples", "layers")  # what a trial writes before the row that commits it
FILES_AT_ONCE = 64  # a scan of thousands of files keeps 60 KB for each of them, one of 64 gives that back


class ResultsError(RuntimeError):
    """The results folder cannot be used as asked. The message names the folder and the remedy."""


@dataclass(frozen=True)
class TrialRows:
    """Everything that one trial writes. `trial` is the row that commits it."""

    trial: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    layers: Sequence[Mapping[str, Any]] = ()


class Results:
    """One study's results: `root` is a folder or an `s3://`, `gs://` URI that holds the five tables.

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

    # writing

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
                raise ResultsError(f"{name}: unknown columns {sorted(unknown)}; define them in sweep/results.py")
        columns = {field.name: [row.get(field.name) for row in rows] for field in schema}
        table = pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema}, schema=schema)
        return self.put_table(name, key, table)

    def put_table(self, name: str, key: str, table: pa.Table) -> int:
        """One file of a table that is columns already; returns its bytes.

        Raises ResultsError unless it has the schema and key.
        """
        if not table.schema.equals(TABLES[name]):
            raise ResultsError(f"{name}: columns differ from the schema in sweep/results.py")
        _check_key(name, table)
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        content = buffer.getvalue()
        self._put(f"{name}/{key}.parquet", content)
        return int(content.size)

    def _put(self, relative: str, content: pa.Buffer | bytes) -> None:
        """A file that appears whole or not at all."""
        final = f"{self.path}/{relative}"
        if not self.is_local:  # a put in an object store is atomic
            patiently(partial(self._upload, final, content), self.patience, f"writing {relative}")
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

    def _upload(self, path: str, content: pa.Buffer | bytes) -> None:
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
        self._put(name, text.encode())

    def delete(self, name: str) -> None:
        """Remove the text file `name`."""
        self.filesystem.delete_file(f"{self.path}/{name}")

    def check_writable(self) -> None:
        """Raise OSError when nothing can be written there."""
        probe = f".probe.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp"
        self._put(probe, b"")
        self.delete(probe)

    def written(self, name: str) -> float | None:
        """When the text file `name` was written, by the clock of the store (seconds since 1970); None without one."""
        info = self.filesystem.get_file_info(f"{self.path}/{name}")
        return None if info.type != pafs.FileType.File else float(info.mtime_ns) / 1e9

    # trials that were started and have not committed yet: started/TRIAL.ATTEMPT, empty files

    def mark_started(self, trial_id: str, attempt: int) -> None:
        """Remember that a trial was started, in case nobody lives to say so in its row."""
        path = f"{self.path}/started/{trial_id}.{attempt}"
        if self.is_local:
            os.makedirs(f"{self.path}/started", exist_ok=True)
            Path(path).touch()
        else:
            patiently(partial(self._upload, path, b""), self.patience, f"writing started/{trial_id}.{attempt}")

    def forget_started(self, trial_id: str, attempts: Iterable[int]) -> None:
        """The trial's row counts these starts by now."""
        for attempt in attempts:
            path = f"{self.path}/started/{trial_id}.{attempt}"
            if self.filesystem.get_file_info(path).type == pafs.FileType.File:
                self.filesystem.delete_file(path)

    def started(self) -> dict[str, list[int]]:
        """Attempts of trials that were started and are not forgotten, by trial, from one listing."""
        selector = pafs.FileSelector(f"{self.path}/started", allow_not_found=True)
        found: dict[str, list[int]] = {}
        for info in patiently(partial(self.filesystem.get_file_info, selector), self.patience, "listing started"):
            trial_id, _, attempt = info.base_name.rpartition(".")
            if trial_id and re.fullmatch("[0-9]{1,6}", attempt):
                found.setdefault(trial_id, []).append(int(attempt))
        return found

    def remove_trial(self, trial_id: str) -> None:
        """Take back the row in `trials/`, if there is one, so that the trial counts as missing."""
        path = f"{self.path}/trials/{trial_id}.parquet"
        if self.filesystem.get_file_info(path).type == pafs.FileType.File:
            self.filesystem.delete_file(path)

    def remove_leftovers(self, age: float) -> int:
        """Remove temporary files of writers that were killed more than `age` seconds ago; returns how many."""
        if not self.is_local:  # a put that was cut off leaves nothing
            return 0
        folders = [Path(self.path), *(Path(self.path) / name for name in TABLES)]
        left = [file for folder in folders for file in folder.glob(".*.tmp")]
        old = [file for file in left if time.time() - file.stat().st_mtime > age]
        for file in old:
            file.unlink(missing_ok=True)
        return len(old)

    # reading

    def files(self, name: str) -> list[str]:
        """Paths of the table's whole files, sorted; temporary files are hidden ones and left out."""
        return sorted(self.sizes(name))

    def sizes(self, name: str) -> dict[str, int]:
        """Bytes of the table's whole files by path, from one listing."""
        selector = pafs.FileSelector(f"{self.path}/{name}", allow_not_found=True)
        found = patiently(partial(self.filesystem.get_file_info, selector), self.patience, f"listing {name}")
        return {
            info.path: info.size
            for info in found
            if info.type == pafs.FileType.File and info.base_name.endswith(".parquet") and info.base_name[0] != "."
        }

    def keys(self, name: str) -> set[str]:
        """Keys (trial or calibration ids) that have a file in the table, read from file names alone."""
        return {path.rpartition("/")[2].removesuffix(".parquet") for path in self.files(name)}

    def status(self, trial_id: str) -> str | None:
        """`ok` or `failed` as the trial's committed row says now; None when there is none, or a damaged one."""
        return patiently(partial(self._status, trial_id), self.patience, f"reading trials/{trial_id}.parquet")

    def _status(self, trial_id: str) -> str | None:
        path = f"{self.path}/trials/{trial_id}.parquet"
        if self.filesystem.get_file_info(path).type != pafs.FileType.File:
            return None
        with self.filesystem.open_input_file(path) as file:
            try:
                return str(pq.read_table(file, columns=["status"]).column("status")[0].as_py())
            except (pa.ArrowInvalid, IndexError):
                return None

    def scan(self, name: str) -> pl.LazyFrame:
        """The table as a lazy frame, all files together. Rows of trials that failed or never committed are left out."""
        frame = self._scan_files(name)
        if name in DETAILS:
            committed = self._scan_files("trials").filter(pl.col("status") == "ok").select("trial_id")
            frame = frame.join(committed, on="trial_id", how="semi")
        return frame

    def read(self, name: str, without: Collection[str] = ()) -> pl.DataFrame:
        """The whole table but for the files `without`, sorted by its key. Raises ResultsError for a key twice."""
        key = list(KEYS[name])
        frame = patiently(partial(self._read, name, without), self.patience, f"reading {name}").sort(key)
        if frame.select(pl.struct(key).is_duplicated().any()).item():
            twice = frame.filter(pl.struct(key).is_duplicated()).select(key).row(0)
            raise ResultsError(f"{self.root}/{name}: {dict(zip(key, twice, strict=True))} occurs twice")
        return frame

    def _read(self, name: str, without: Collection[str]) -> pl.DataFrame:
        frame = self._collect(name, [path for path in self.files(name) if path not in without])
        if name not in DETAILS:
            return frame
        ended = self._collect("trials", self.files("trials"), ("trial_id", "status"))
        return frame.join(ended.filter(pl.col("status") == "ok"), on="trial_id", how="semi")

    def _collect(self, name: str, paths: list[str], columns: Sequence[str] = ()) -> pl.DataFrame:
        parts = [paths[first : first + FILES_AT_ONCE] for first in range(0, len(paths), FILES_AT_ONCE)] or [[]]
        return pl.concat([self._scan_paths(name, part).select(columns or pl.all()).collect() for part in parts])

    def read_file(self, name: str, path: str) -> pl.DataFrame:
        """One file of a table, with the table's columns."""
        return self._scan_paths(name, [path]).collect()

    def _scan_files(self, name: str) -> pl.LazyFrame:
        return self._scan_paths(name, self.files(name))

    def _scan_paths(self, name: str, paths: list[str]) -> pl.LazyFrame:
        schema = TABLES[name]
        wanted = pl.DataFrame(pa.Table.from_batches([], schema=schema)).schema  # empty_table() would import pandas
        if not paths:
            return pl.LazyFrame(schema=wanted)
        if self.is_local:
            return pl.scan_parquet(paths, schema=wanted, missing_columns="insert", extra_columns="ignore")
        import pyarrow.dataset as ds

        return pl.scan_pyarrow_dataset(ds.dataset(paths, schema=schema, filesystem=self.filesystem, format="parquet"))


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


def _check_key(name: str, table: pa.Table) -> None:
    key = list(KEYS[name])
    for column in key:
        if table.column(column).null_count:
            raise ResultsError(f"{name}: {column} is a key and must not be null")
    distinct = table.select(key).group_by(key).aggregate([]).num_rows
    if distinct != table.num_rows:
        raise ResultsError(f"{name}: two rows share the key {key}")


def about(name: str) -> Iterable[tuple[str, str, str]]:
    """(column, type, meaning) of a table, for the documentation."""
    for field in TABLES[name]:
        yield field.name, str(field.type), field.metadata[b"about"].decode()
