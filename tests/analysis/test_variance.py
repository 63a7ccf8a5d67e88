"""Tables of variance components: what they hold, what they leave out, and that they say so."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.answers import answer_table
from analysis.compare import flip_table, mcnemar_table, method_pairs
from analysis.estimates.components import COMPONENTS
from analysis.estimates.examples import read_examples
from analysis.frames import load
from analysis.measures import MEAN
from analysis.recommend import recommend
from analysis.reliability import lead_table, reliability_table
from analysis.simulate import Design, simulate_study
from analysis.variance import component_table, repeat_table


def test_table_shows_zero_for_data_free_methods_and_says_why(simulated: Path) -> None:
    table = component_table(load(str(simulated)))
    controls = table.filter(pl.col("method_label").is_in(["RTN 3-bit g32", "Magnitude 50%"]))
    zero = controls.filter(pl.col("component").is_in(["source", "set within source"]))
    assert zero.height == 2 * 2 * 3 * 2
    assert (zero["sd"] == 0).all()
    assert (zero["high"] == 0).all()
    assert zero["note"].str.contains("sees no calibration data").all()


def test_table_has_every_task_and_their_mean_for_accuracy_and_perplexity(simulated: Path) -> None:
    study = load(str(simulated))
    assert set(component_table(study)["task"]) == {"lambada", "piqa", MEAN}
    assert set(component_table(study, "perplexity")["task"]) == {"books", "code", "legal", MEAN}
    wanda = component_table(study).filter(method_label="Wanda 50%", model="small", task=MEAN)
    assert wanda["component"].to_list() == list(COMPONENTS)
    assert wanda["sd"].null_count() == 0


def test_table_says_where_the_design_is_unbalanced(simulated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    assert not component_table(load(str(folder)))["note"].str.contains("unbalanced").any()
    for row in load(str(folder)).trials.filter(method="wanda", source="code", set=2).iter_rows(named=True):
        (folder / "trials" / f"{row['trial_id']}.parquet").unlink()
    table = component_table(load(str(folder))).with_columns(pl.col("note").str.contains("unbalanced: 2 to 3 sets"))
    said = table.filter(pl.col("note"))
    assert set(said["method_label"]) == {"Wanda 50%"}
    assert set(said["component"]) == {"source", "set within source"}
    assert said.height == 2 * 3 * 2


def test_a_trial_without_samples_is_left_out_alone_and_named(simulated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    chosen = {"model": "small", "method": "wanda", "source": "code", "set": 1, "nsamples": 16}
    (folder / "samples" / f"{load(str(folder)).trials.filter(**chosen).item(0, 'trial_id')}.parquet").unlink()
    study = load(str(folder))
    (note,) = study.limitations
    assert note.subject == "no single examples"
    assert "1 of 150 trials" in note.text
    assert "small · Wanda 50% · code · 1" in note.text
    whole = component_table(load(str(simulated))).filter(model="small", method_label="Wanda 50%")
    table = component_table(study).filter(model="small", method_label="Wanda 50%")
    assert table.height == whole.height == 3 * 5
    assert table.filter(component="set within source")["levels"].to_list() == [8, 8, 8]
    assert table["sd"].null_count() == 0
    flips = flip_table(study).filter(model="small", method_label="Wanda 50%")
    assert flips["trials"].to_list() == [3, 2, 3]
    pairs = mcnemar_table(study).filter(model="small", b="Wanda 50%")
    assert pairs["pairs"].to_list() == [8, 8, 8]
    tests = method_pairs(study).filter(model="small", b="Wanda 50%")
    assert tests["a_wins_new_test"].null_count() == 0
    answer = recommend(study, "small", "wanda").sentences[1]
    assert "on new test questions" in answer


def _keep_samples(folder: Path, trial_id: str, kept: pl.Expr) -> None:
    path = folder / "samples" / f"{trial_id}.parquet"
    pl.read_parquet(path).filter(kept).write_parquet(path)


def test_a_task_that_a_trial_lacks_is_left_out_of_that_task_and_the_mean(simulated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    chosen = {"model": "small", "method": "wanda", "source": "code", "set": 1, "nsamples": 16}
    trial_id = load(str(folder)).trials.filter(**chosen).item(0, "trial_id")
    _keep_samples(folder, trial_id, pl.col("task") != "piqa")
    study = load(str(folder))
    table = component_table(study).filter(model="small", method_label="Wanda 50%", component="set within source")
    assert dict(table.select("task", "levels").iter_rows()) == {"lambada": 9, "piqa": 8, MEAN: 8}
    assert "without code 1, which have no samples of piqa" in table.filter(task="piqa").item(0, "note")
    texts = [note.text for note in read_examples(study).limitations]
    assert texts == [
        "Wanda 50% on small, components of piqa (accuracy): without code 1, which have no samples of piqa.",
        "Wanda 50% on small, components of mean (accuracy): without code 1, which have no samples of some task.",
    ]


def test_trials_that_share_no_example_have_unknown_components_and_a_limitation(simulated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    chosen = load(str(folder)).trials.filter(model="small", method="wanda", nsamples=16)["trial_id"].to_list()
    for number, trial_id in enumerate(chosen):
        _keep_samples(folder, trial_id, (pl.col("task") != "piqa") | (pl.col("doc_id") % 9 == number))
    study = load(str(folder))
    table = component_table(study).filter(model="small", method_label="Wanda 50%", task="piqa")
    assert table["sd"].null_count() == len(COMPONENTS)
    assert (table["dropped_examples"] == 60).all()
    assert table["note"].str.contains("share no two examples of piqa").all()
    assert "share no two examples of piqa" in read_examples(study).limitations[0].text
    assert component_table(study).filter(method_label="Wanda 50%", task="lambada")["sd"].null_count() == 0


def test_repeat_noise_comes_from_cells_that_ran_twice(simulated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    assert repeat_table(load(str(folder))).is_empty()
    chosen = load(str(folder)).trials.filter(pl.col("method") == "wanda").item(0, "trial_id")
    for table in ("trials", "metrics"):
        frame = pl.read_parquet(folder / table / f"{chosen}.parquet").with_columns(pl.lit("again").alias("trial_id"))
        if table == "metrics":
            frame = frame.with_columns(
                pl.when(pl.col("kind") == "task").then(pl.col("value") + 0.02).otherwise("value")
            )
        frame.write_parquet(folder / table / "again.parquet")
    row = repeat_table(load(str(folder))).filter(pl.col("measure") == "accuracy").row(0, named=True)
    assert row["cells"] == 1
    assert np.isclose(row["sd"], 2 / np.sqrt(2))


def test_of_one_task_the_mean_over_tasks_is_its_own(tmp_path: Path) -> None:
    """So the luck of its examples is in the answers, as in a recommendation, and in comparisons."""
    design = Design(
        models={"small": 2_000_000},
        sources=("books", "code", "legal"),
        heldout=("books",),
        sets=3,
        tasks={"piqa": 60},
        windows=8,
        worth=True,
    )
    simulate_study(str(tmp_path), design)
    study = load(str(tmp_path))
    for measure, task in (("accuracy", "piqa"), ("loglikelihood", "piqa"), ("perplexity", "books")):
        table = component_table(study, measure)
        assert set(table["task"]) == {task, MEAN}
        assert table.filter(task=task).drop("task").equals(table.filter(task=MEAN).drop("task"))
        answers = answer_table(study, measure)
        assert set(answers["about"]) == {"the task"}
        assert answers.height == 4
    told = recommend(study, "small", "wanda", measure="accuracy")
    row = answer_table(study, "accuracy").filter(method_label="Wanda 50%").row(0, named=True)
    assert row["leader_will_do"] == pytest.approx(told.probability, abs=0.02)
    pairs = method_pairs(study, "accuracy").filter(task=MEAN)
    assert pairs["low_new_test"].null_count() < pairs.height
    lead = lead_table(reliability_table(study))
    assert {"accuracy", "loglikelihood", "probability", "brier"} <= set(lead["measure"])
