"""A trial is compressed again to the very weights that were measured, or it is said why not."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch

from calib.settings import SettingsError
from sweep.results import Results
from sweep.shipping.choose import Wanted, choose
from sweep.shipping.recompress import device_of, recompress, stored_set
from sweep.weights.hashes import weights_hash

RIVERS = Wanted(method="gptq", source="rivers")


def test_weights_and_tokens_are_those_that_were_measured(finished: Path) -> None:
    store = Results(finished)
    chosen = choose(store, RIVERS)
    made = recompress(store, chosen, "cpu")
    assert weights_hash(made.dense.model) == chosen.row["weights_hash"]
    assert made.calibration is not None
    assert made.calibration.hash == chosen.row["calibration_hash"]
    assert made.report.average_bits == chosen.row["average_bits"]


def test_other_weights_are_refused_with_what_differs(results: Path) -> None:
    store = Results(results)
    chosen = choose(store, RIVERS)
    store.commit({**chosen.row, "weights_hash": "0" * 64, "device": "an abacus"})
    with pytest.raises(
        SettingsError, match=r"the row has 0000000000000000\): it ran on an abacus, this is .*export where"
    ):
        recompress(store, choose(store, RIVERS), "cpu")
    store.commit({**chosen.row, "weights_hash": "0" * 64})
    with pytest.raises(SettingsError, match="device and versions are the same, so files of the model or code"):
        recompress(store, choose(store, RIVERS), "cpu")


def test_a_lost_calibration_set_is_said(results: Path) -> None:
    store = Results(results)
    chosen = choose(store, RIVERS)
    (results / "calibration" / f"{chosen.row['calibration_id']}.parquet").unlink()
    with pytest.raises(SettingsError, match="is lost; the launch command of the study makes it again"):
        stored_set(store, chosen.row)


def test_a_changed_calibration_set_is_refused(results: Path) -> None:
    store = Results(results)
    chosen = choose(store, RIVERS)
    file = results / "calibration" / f"{chosen.row['calibration_id']}.parquet"
    frame = pl.read_parquet(file)
    frame.with_columns(tokens=pl.col("tokens").list.reverse()).write_parquet(file)
    with pytest.raises((SettingsError, ValueError), match=r"hash|changed"):
        stored_set(store, chosen.row)


def test_devices_that_there_are_not_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(None) == device_of("cpu") == "cpu"
    with pytest.raises(SettingsError, match="--device cuda: torch sees no GPU here"):
        device_of("cuda")
    with pytest.raises(SettingsError, match="--device 'tpu': expected cuda or cpu"):
        device_of("tpu")
