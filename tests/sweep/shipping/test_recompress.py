"""A trial is compressed again to the very weights that were measured, or it is said why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from typer.testing import CliRunner

from calib.settings import SettingsError
from sweep.export import app as export_app
from sweep.formats.loading import load
from sweep.launch import app
from sweep.results import Results
from sweep.shipping.choose import Wanted, choose
from sweep.shipping.recompress import device_of, recompress, stored_set
from sweep.weights.hashes import weights_hash
from tests.sweep.shipping.conftest import ship_study

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


def test_a_damaged_calibration_set_is_said_with_its_file(results: Path) -> None:
    store = Results(results)
    row = store.read("trials").filter(pl.col("source") == "rivers").row(0, named=True)
    file = results / "calibration" / f"{row['calibration_id']}.parquet"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(SettingsError, match=rf"calibration/{file.name} cannot be read .*; remove it, and the launch"):
        stored_set(store, row)


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
    with pytest.raises(
        SettingsError, match=rf"^--results {results}: the calibration set \w+: the tokens have the hash"
    ):
        stored_set(store, chosen.row)


def test_devices_that_there_are_not_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(None) == device_of("cpu") == "cpu"
    with pytest.raises(SettingsError, match="--device cuda: torch sees no GPU here"):
        device_of("cuda")
    with pytest.raises(SettingsError, match="--device 'tpu': expected cuda or cpu"):
        device_of("tpu")


@pytest.mark.parametrize("kind", ["compressed-tensors", "gptq"])
def test_groups_that_follow_the_order_ship_the_measured_weights(kind: str, scattered: Path, tmp_path: Path) -> None:
    chosen = choose(Results(scattered), Wanted(method="gptq"))
    arguments = [chosen.row["trial_id"], "--results", str(scattered), "--format", kind, "--device", "cpu"]
    done = CliRunner().invoke(export_app, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert weights_hash(load(tmp_path / "out")) == chosen.row["weights_hash"]


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_texts: Path, tiny_tasks: Path) -> Path:
    """The results of one trial whose groups are fitted in the order of the solver."""
    folder = tmp_path_factory.mktemp("scattered")
    study = ship_study(tiny_model, tiny_texts, tiny_tasks)
    study["methods"] = [{**study["methods"][0], "static_groups": False}]
    study["calibration"]["source"] = study["calibration"]["source"][:1]
    launch(study, folder)
    return folder / "results"


def test_weighed_tokens_give_the_measured_weights_again(
    tiny_model: Path, tiny_texts: Path, tiny_tasks: Path, tmp_path: Path
) -> None:
    talks = tmp_path / "talks.jsonl"
    turns = [("user", "a river of stones?"), ("assistant", "the river runs over many stones"), ("user", "and?")]
    lines = [{"messages": [{"role": role, "content": f"{text} {n}"} for role, text in turns]} for n in range(40)]
    talks.write_text("\n".join(map(json.dumps, lines)))
    study = ship_study(tiny_model, tiny_texts, tiny_tasks)
    study["methods"] = study["methods"][:1]
    study["calibration"] = {
        "source": {"source": "chat", "of": {"source": "file", "path": str(talks)}, "template": "chatml"},
        "nsamples": 4,
        "seqlen": 32,
        "separator": "none",
        "part": ["both", "response"],
        "length_weights": [None, [8, 32]],
    }
    launch(study, tmp_path)
    store = Results(tmp_path / "results")
    rows = store.scan("trials").filter(pl.col("method") == "gptq").collect()
    assert set(rows.select("part", "length_weights").iter_rows()) == {
        (part, lengths) for part in (None, "response") for lengths in (None, "8, 32")
    }
    assert rows["weights_hash"].n_unique() == rows["calibration_id"].n_unique() == 4
    marks = store.scan("calibration").select(pl.col("responses").explode().mean()).collect().item()
    shares = store.scan("descriptors").filter(pl.col("descriptor") == "response_share").collect()["value"]
    assert len(shares) == 4 and shares.mean() == pytest.approx(marks) and 0 < marks < 1
    for row in rows.iter_rows(named=True):
        made = recompress(store, choose(store, Wanted(trial=row["trial_id"])), "cpu")
        assert weights_hash(made.dense.model) == row["weights_hash"]


def launch(study: dict[str, Any], folder: Path) -> None:
    """Run the study; its results are in `folder`."""
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweep.storage.lease.SETTLE", (0.0, 0.0))  # nobody else launches
        done = CliRunner().invoke(app, [str(folder / "study.yaml"), "--local", "--results", str(folder / "results")])
    assert done.exit_code == 0, done.output
