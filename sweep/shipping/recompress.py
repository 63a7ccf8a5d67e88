"""A measured trial's compression once more: the same model, the same tokens, and the same weights, or an error.

The tokens come from the set that the results folder keeps, whose hash the row states. The weights' hash must be the
row's: what is shipped is what was measured. Other processors and other versions of torch can round sums otherwise;
then the message says where the row was made, since it cannot be made here.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from calib.export import read_set
from calib.settings import SettingsError, shown
from calib.spec import CalibrationSet
from methods.base import Method
from methods.blockwise import CompressionReport, compress_model
from sweep.formats.bitsandbytes import KeptBlocks, fourbit_rule
from sweep.formats.catalog import KEPT, SPQR
from sweep.formats.spqr import KeptGrids, spqr_rule
from sweep.formats.writer import PARTIAL, nearest
from sweep.models import at_commit
from sweep.results import Results
from sweep.runs.machine import device_name, quiet_torch
from sweep.runs.provenance import provenance
from sweep.shipping.choose import Chosen, readable
from sweep.storage.store import stem
from sweep.weights.dense import DenseModel
from sweep.weights.hashes import weights_hash
from sweep.weights.streaming import StreamedModel, load_dense

DEVICES = ("cuda", "cpu")
Witnessed: TypeAlias = KeptGrids | KeptBlocks
EXPLAINING = ("torch", "transformers", "triton", "numpy")  # versions that can change the last bit of a sum


@dataclass(frozen=True)
class Recompressed:
    """The compressed model (`dense.model`), with what was seen and done. kept: grids that the weights do not tell."""

    dense: DenseModel | StreamedModel
    report: CompressionReport
    calibration: CalibrationSet | None
    kept: Witnessed | None = None


@contextmanager
def keeping(method: Method, kind: str, out: Path) -> Iterator[Witnessed | None]:
    """Keep what the format `kind` needs besides the weights while `method` runs: beside `out`, until it is written."""
    if kind not in KEPT:
        yield None
        return
    above = nearest(out.absolute().parent)
    with tempfile.TemporaryDirectory(prefix=f"{out.name}{PARTIAL}grids-", dir=above) as folder:
        yield witness(method, kind, Path(folder))


def recompress(
    store: Results, chosen: Chosen, device: str | None = None, kept: Witnessed | None = None
) -> Recompressed:
    """Compress as the chosen trial was. Raises SettingsError when the weights are not those that were measured."""
    trial, row = chosen.trial, chosen.row
    assert trial.method is not None
    calibration = stored_set(store, row) if row["calibration_id"] else None
    place = device_of(device)
    dense = load_dense(at_commit(trial.model, row["model_commit"]), place)
    tokens = calibration.tokens.copy() if calibration else None
    weights = calibration.weights if calibration else None
    report = compress_model(dense.model, trial.method, tokens, witness=kept, token_weights=weights)
    found = weights_hash(dense.model)
    if found != row["weights_hash"]:
        raise SettingsError(
            f"trial {row['trial_id']}: the weights made here are not those that were measured (hash {found[:16]}, the "
            f"row has {row['weights_hash'][:16]}): {_difference(row, device_name(place), dense.dtype)}; export where "
            "it was measured, or measure it here in a new results folder"
        )
    return Recompressed(dense, report, calibration, kept)


def witness(method: Method, kind: str, folder: Path) -> Witnessed | None:
    """What keeps in `folder` what `kind` needs of `method`; None where it leaves nothing of the kind."""
    grids, blocks = spqr_rule(method), fourbit_rule(method)
    if kind == SPQR:
        return None if grids is None else KeptGrids(folder, grids)
    return None if blocks is None else KeptBlocks(folder, blocks)


def device_of(asked: str | None) -> str:
    """Set up torch and return its device (None: a GPU if there is one). Raises SettingsError for one there is not."""
    if asked not in (None, *DEVICES):
        raise SettingsError(f"--device {shown(asked)}: expected {' or '.join(DEVICES)}")
    try:
        return quiet_torch(asked)
    except RuntimeError:
        raise SettingsError("--device cuda: torch sees no GPU here; leave the flag out, or use --device cpu") from None


def stored_set(store: Results, row: Mapping[str, Any]) -> CalibrationSet:
    """The trial's calibration set out of the results folder. Raises SettingsError when it is lost or was changed."""
    key = row["calibration_id"]
    own = [path for path in store.files("calibration") if stem(path) == key]
    again = "the launch command of the study makes it again"
    with readable(store, f"calibration/{key}.parquet", f"remove it, and {again}"):
        rows = store.scan_paths("calibration", own).filter(pl.col("calibration_id") == key).collect()
    if rows.is_empty():
        raise SettingsError(f"--results {store.root}: the calibration set {key} is lost; {again}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{key}.parquet"
        rows.write_parquet(file)
        try:
            found = read_set(file)
        except SettingsError as error:  # names the file, which nobody else sees
            reason = str(error).removeprefix(f"{file}: ")
            raise SettingsError(f"--results {store.root}: the calibration set {key}: {reason}") from None
    if found.hash != row["calibration_hash"]:
        raise SettingsError(
            f"--results {store.root}: the calibration set {key} has the hash {found.hash[:16]}, the trial saw "
            f"{row['calibration_hash'][:16]}; it was changed"
        )
    return found


def _difference(row: Mapping[str, Any], device: str, dtype: str) -> str:
    """What is known to differ between the place where the row was made and this one."""
    then, now = json.loads(row["versions"] or "{}"), json.loads(provenance()["versions"])
    other = [name for name in EXPLAINING if then.get(name) != now.get(name)]
    parts = [f"{name} {then.get(name)} then, {now.get(name)} here" for name in other]
    if row["device"] != device:
        parts.insert(0, f"it ran on {row['device']}, this is {device}")
    if row["dtype"] != dtype:
        parts.insert(0, f"it was computed in {row['dtype']}, here in {dtype}")
    return "; ".join(parts) or "device and versions are the same, so files of the model or code were changed"
