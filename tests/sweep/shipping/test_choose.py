"""The trial that is meant is found; what is none, or not one, is said with what there is."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml

from calib.settings import SettingsError
from sweep.results import Results
from sweep.shipping.choose import Wanted, choose
from tests.sweep.shipping.conftest import GPTQ


def trials(root: Path) -> pl.DataFrame:
    return Results(root).read("trials")


def test_a_trial_is_found_by_id_by_its_beginning_and_by_its_factors(finished: Path) -> None:
    store = Results(finished)
    row = trials(finished).filter(pl.col("method_label") == GPTQ, pl.col("source") == "rivers").row(0, named=True)
    wanted = [
        Wanted(trial=row["trial_id"]),
        Wanted(trial=row["trial_id"][:8]),
        Wanted(model=row["model"], method="gptq", source="rivers", set=0),
        Wanted(method=GPTQ, source="rivers"),
    ]
    for each in wanted:
        chosen = choose(store, each)
        assert chosen.trial.id == row["trial_id"]
        assert set(chosen.metrics["trial_id"]) == {row["trial_id"]}
        assert chosen.dense["trial_id"].n_unique() == 1
        assert chosen.evaluated


def test_several_trials_are_listed(finished: Path) -> None:
    with pytest.raises(SettingsError, match=r"2 trials are method gptq: .*rivers set 0\), .*stones set 0\); give one"):
        choose(Results(finished), Wanted(method="gptq"))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted(trial="0123456789"), "no trial there is trial 0123456789"),
        (Wanted(trial="abc"), "no trial there is trial abc"),
        (Wanted(method="gtpq"), r"unknown method 'gtpq', did you mean 'gptq'\?"),
        (Wanted(source="river"), r"unknown source 'river', did you mean 'rivers'\?"),
        (Wanted(method="dense"), "is the dense model, which has nothing to export"),
        (Wanted(method="gptq", source="rivers", set=7), "no trial there is method gptq, source rivers, set 7"),
    ],
)
def test_what_there_is_not_is_said(finished: Path, wanted: Wanted, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        choose(Results(finished), wanted)


def test_a_failed_trial_is_named_with_its_error(results: Path) -> None:
    store = Results(results)
    row = trials(results).filter(pl.col("method") == "gptq").row(0, named=True)
    store.commit({**row, "status": "failed", "error": "out of memory", "weights_hash": None})
    with pytest.raises(SettingsError, match=rf"trial {row['trial_id']} failed, .*\(out of memory\)"):
        choose(store, Wanted(trial=row["trial_id"]))


def test_a_folder_without_a_study_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no study with trials; give the folder that a launch wrote"):
        choose(Results(tmp_path), Wanted())


def test_what_changed_since_is_said(results: Path, tiny_model: Path, tmp_path: Path) -> None:
    file = results / "study.yaml"
    document = file.read_text()
    wanted = Wanted(method="gptq", source="rivers")
    file.write_text(document.replace("dtype: bfloat16\n", "dtype: float16\n"))
    with pytest.raises(SettingsError, match="can no longer be made: the files of its model or its data"):
        choose(Results(results), wanted)
    copied = shutil.copytree(tiny_model, tmp_path / tiny_model.name)
    with open(copied / "config.json", "a") as stream:
        stream.write(" ")
    file.write_text(document.replace(str(tiny_model), str(copied)))
    with pytest.raises(SettingsError, match=r"the files of its model \(model_id is \w+, was \w+\) are not those"):
        choose(Results(results), wanted)
    texts = Path(document.split("path: ")[1].split("rivers.jsonl")[0])
    (tmp_path / "rivers.jsonl").write_text((texts / "rivers.jsonl").read_text() * 2)
    file.write_text(document.replace(str(texts / "rivers.jsonl"), str(tmp_path / "rivers.jsonl")))
    with pytest.raises(SettingsError, match=r"the files of its calibration text or tokenizer \(calibration_id is"):
        choose(Results(results), wanted)


def test_a_study_that_a_later_command_replaced_is_said(results: Path) -> None:
    file = results / "study.yaml"
    document = yaml.safe_load(file.read_text())
    sources = document["calibration"]["source"]
    document["calibration"]["source"] = [source for source in sources if "rivers" not in source["path"]]
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(SettingsError, match=r"made: study\.yaml there has no source 'rivers' any more, since a later"):
        choose(Results(results), Wanted(method="gptq", source="rivers"))


@pytest.mark.parametrize("table", ["trials", "metrics"])
def test_a_damaged_table_ends_in_one_line(results: Path, table: str) -> None:
    for file in (results / table).glob("*.parquet"):
        file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(SettingsError, match="a file in trials/ or metrics/ cannot be read .*makes it again"):
        choose(Results(results), Wanted(method="gptq", source="rivers"))
