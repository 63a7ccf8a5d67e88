"""A shipped folder holds all that belongs to it, and its recipe measures the same trial."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

from calib.export import read_set
from sweep.config import parse_study
from sweep.formats.format import GridSpec
from sweep.formats.writer import Written
from sweep.plan import expand
from sweep.results import Results
from sweep.shipping.choose import Wanted, choose
from sweep.shipping.folder import Parcel, leftover_note, reader_note, recipe, ship, told
from sweep.shipping.recompress import recompress


def test_the_recipe_of_every_trial_measures_that_trial(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Results(finished)
    monkeypatch.chdir(tmp_path)
    for trial in store.read("trials").filter(pl.col("method") != "dense")["trial_id"]:
        text = recipe(choose(store, Wanted(trial=trial)), tmp_path)
        assert not [word for word in text.split() if word.startswith("/")]
        again = expand(parse_study(yaml.safe_load(text)))
        assert trial in {each.id for each in again}
        assert len(again) == 2  # and the dense model


def test_a_model_may_stand_in_the_study_as_a_name_alone(finished: Path, tmp_path: Path) -> None:
    store = Results(finished)
    chosen = choose(store, Wanted(method="sparsegpt", source="rivers"))
    bare = {**chosen.study.document, "models": [str(chosen.trial.model.path)]}
    study = dataclasses.replace(chosen.study, document=bare)
    (entry,) = yaml.safe_load(recipe(dataclasses.replace(chosen, study=study), tmp_path))["models"]
    assert (tmp_path / entry["model"]).resolve() == Path(chosen.trial.model.path).resolve()


def test_card_recipe_telemetry_and_tokens_go_along(finished: Path, tmp_path: Path) -> None:
    store = Results(finished)
    chosen = choose(store, Wanted(method="sparsegpt", source="rivers"))
    made = recompress(store, chosen, "cpu")
    ship(made, chosen, tmp_path / "with", Parcel("dense", why="the smallest loss"))
    names = {path.name for path in (tmp_path / "with").iterdir()}
    assert {"README.md", "recipe.yaml", "layers.parquet", "calibration.parquet", "tokenizer.json"} <= names
    assert read_set(tmp_path / "with" / "calibration.parquet").hash == chosen.row["calibration_hash"]
    measured = store.read("layers").filter(pl.col("trial_id") == chosen.trial.id)
    shipped = pl.read_parquet(tmp_path / "with" / "layers.parquet")
    assert_frame_equal(shipped.drop("seconds"), measured.drop("seconds"), check_row_order=False)
    text = (tmp_path / "with" / "README.md").read_text()
    assert "keeps to the pattern 2:4" in text
    assert "> the smallest loss" in text
    (typed,) = [line for line in text.splitlines() if "lm_eval --model hf" in line]
    place = typed.split("pretrained=")[1].split(",")[0]  # the tasks have their data beside them, and are asked there
    assert (Path(chosen.study.evaluation.task_path) / place).resolve() == tmp_path / "with"
    ship(made, chosen, tmp_path / "without", Parcel("dense", data=False))
    assert not (tmp_path / "without" / "calibration.parquet").exists()
    assert chosen.row["calibration_hash"] in (tmp_path / "without" / "README.md").read_text()


def test_bits_on_disk_stand_beside_those_that_were_counted() -> None:
    parts = {"bytes": 2**20, "packed_linears": 1, "packed_bytes": 9, "packed_weights": 16}
    packed = Written(Path("x"), "gptq", counted_bits=4.25, **parts)
    assert told(packed) == "x: gptq, 1.0 MiB, 4.500 bits a packed weight (the method counts 4.250)"
    assert told(Written(Path("x"), "dense", bytes=2**20)) == "x: dense, 1.0 MiB"


def test_groups_that_few_loaders_read_are_told() -> None:
    assert reader_note(Written(Path("x"), "gptq", grids=(GridSpec(4, True, 16),))) == ""
    note = reader_note(Written(Path("x"), "gptq", grids=(GridSpec(4, True, 16, scattered=True),)))
    assert "read by transformers with the package gptqmodel" in note
    assert "static_groups: true" in note


def test_what_a_killed_export_left_is_named(tmp_path: Path) -> None:
    assert leftover_note(tmp_path / "out") == ""
    (tmp_path / "out.partial-7").mkdir()
    assert "out.partial-7 is no model" in leftover_note(tmp_path / "out")
