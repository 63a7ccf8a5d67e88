"""Matrices of single outcomes hold exactly what samples/ hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.compare import flip_table, mcnemar_table
from analysis.estimates.examples import read_examples
from analysis.estimates.outcomes import outcomes_by_model, read_outcomes
from analysis.frames import load
from analysis.measures import MEAN
from analysis.variance import component_table


def test_matrices_equal_the_samples(simulated: Path) -> None:
    study = load(str(simulated))
    for outcomes in outcomes_by_model(study):
        for index in (0, 7, outcomes.trials.height - 1):
            rows = pl.read_parquet(simulated / "samples" / f"{outcomes.trials.item(index, 'trial_id')}.parquet")
            for task, matrix in outcomes.matrices["score"].items():
                expected = rows.filter(pl.col("task") == task).sort("doc_id")["correct"].cast(pl.Float32).to_numpy()
                assert np.array_equal(matrix[index], expected)
            for text, matrix in outcomes.matrices["nll"].items():
                assert np.array_equal(
                    matrix[index], rows.filter(pl.col("task") == text).sort("doc_id")["nll"].to_numpy()
                )


def test_trials_with_other_examples_are_matched_by_their_number(simulated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    study = load(str(folder))
    trials = study.trials.filter(model="small", method="wanda", source="code", nsamples=16).sort("set")
    short, missing = trials.item(1, "trial_id"), trials.item(2, "trial_id")
    path = folder / "samples" / f"{short}.parquet"
    frame = pl.read_parquet(path)
    gone = (pl.col("task") == "piqa") & pl.col("doc_id").is_in([3, 4])
    frame.filter(~gone).sample(fraction=1.0, shuffle=True, seed=0).write_parquet(path)
    (folder / "samples" / f"{missing}.parquet").unlink()
    whole = read_outcomes(load(str(simulated)), trials, ["score"])["score"]
    holes = read_outcomes(load(str(folder)), trials, ["score"])["score"]
    assert np.array_equal(holes["piqa"][0], whole["piqa"][0])
    assert np.flatnonzero(np.isnan(holes["piqa"][1])).tolist() == [3, 4]
    kept = np.setdiff1d(np.arange(60), [3, 4])
    assert np.array_equal(holes["piqa"][1][kept], whole["piqa"][1][kept])
    assert np.isnan(holes["lambada"][2]).all()


def test_samples_in_one_compacted_file_are_read_alike(simulated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    files = sorted((folder / "samples").glob("*.parquet"))
    pl.concat([pl.read_parquet(path) for path in files]).write_parquet(folder / "samples" / "compact-0.parquet")
    for path in files:
        path.unlink()
    before, after = (next(iter(outcomes_by_model(load(str(root))))) for root in (simulated, folder))
    for column, matrices in before.matrices.items():
        for task, matrix in matrices.items():
            assert np.array_equal(after.matrices[column][task], matrix, equal_nan=True)


HERE = pl.col("task") == "piqa"


def older(folder: Path, trials: int | None = None) -> None:
    """Without the columns in which trials record their accuracy, as an older version wrote `trials` of them, or all."""
    for name, gone in (("samples", ["score"]), ("metrics", ["accuracy", "reason"])):
        for path in sorted((folder / name).glob("*.parquet"))[:trials]:
            pl.read_parquet(path).drop(gone).write_parquet(path)


def rewrite(folder: Path, name: str, **columns: pl.Expr) -> None:
    for path in (folder / name).glob("*.parquet"):
        pl.read_parquet(path).with_columns(**columns).write_parquet(path)


@pytest.mark.parametrize("trials", [None, 40])
def test_trials_of_an_older_version_are_read_alike(simulated: Path, tmp_path: Path, trials: int | None) -> None:
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    older(folder, trials)
    new, old = load(str(simulated)), load(str(folder))
    assert old.limitations == ()
    assert old.values.equals(new.values)
    for table in (component_table, flip_table, mcnemar_table):
        assert table(old).equals(table(new))


def test_a_task_with_length_normalised_accuracy_alone_is_in_table_and_components(
    simulated: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    older(folder)
    rewrite(folder, "metrics", metric=pl.when(HERE).then(pl.lit("acc_norm")).otherwise("metric"))
    rewrite(folder, "samples", correct_norm=pl.col("correct"), correct=pl.when(~HERE).then("correct"))
    new, old = load(str(simulated)), load(str(folder))
    assert old.values.equals(new.values)
    assert component_table(old).equals(component_table(new))


def test_a_metric_whose_filter_is_not_recorded_is_in_neither(simulated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    older(folder)
    rewrite(folder, "metrics", metric=pl.when(HERE).then(pl.lit("exact_match,strict")).otherwise("metric"))
    study = load(str(folder))
    assert set(study.values.filter(measure="accuracy")["task"]) == {"lambada", MEAN}
    assert set(component_table(study)["task"]) == {"lambada", MEAN}
    assert flip_table(study)["examples"].unique().to_list() == [80]
    assert [note.text for note in study.limitations] == ["piqa have no accuracy and are not in the mean."]


def test_a_recorded_filter_is_in_both(simulated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    strict = pl.when(HERE).then(pl.lit("exact_match,strict"))
    rewrite(folder, "metrics", metric=strict.otherwise("metric"), accuracy=strict.otherwise("accuracy"))
    new, filtered = load(str(simulated)), load(str(folder))
    assert filtered.values.equals(new.values)
    assert component_table(filtered).equals(component_table(new))


def test_examples_that_do_not_average_to_the_accuracy_are_left_out_and_named(simulated: Path, tmp_path: Path) -> None:
    """Shares that an older version stored as right."""
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    older(folder)
    rewrite(folder, "samples", correct=pl.when(HERE).then(True).otherwise("correct"))
    study = load(str(folder))
    assert set(component_table(study)["task"]) == {"lambada"}
    assert flip_table(study)["examples"].unique().to_list() == [80]
    notes = [note.text for note in read_examples(study).limitations]
    assert any("samples/ say of piqa does not average to its accuracy" in note for note in notes)
    assert any("has no samples of piqa, so components of the mean are unknown" in note for note in notes)


def test_shares_of_an_answer_have_components_and_no_flips(simulated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    half = pl.when(HERE).then
    rewrite(folder, "metrics", value=half(pl.col("value") * 0.5 + 0.25).otherwise("value"))
    rewrite(folder, "samples", score=half(pl.col("score") * 0.5 + 0.25).otherwise("score"))
    new, shares = load(str(simulated)), load(str(folder))
    for task, factor in (("piqa", 0.5), ("lambada", 1.0)):
        before, after = (component_table(study).filter(task=task)["sd"].to_numpy() for study in (new, shares))
        assert np.allclose(after, factor * before, atol=1e-3, equal_nan=True)
    assert flip_table(shares)["examples"].unique().to_list() == [80]
    assert mcnemar_table(shares)["examples"].unique().to_list() == [80]
    (note,) = read_examples(shares).limitations
    assert note.text == "Outcomes of piqa are numbers between right and wrong; flips and McNemar's test lack them."


def test_a_trial_whose_accuracy_is_null_is_in_no_component(simulated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(simulated, tmp_path / "results"))
    trial = load(str(folder)).trials.filter(model="small", method="wanda", source="code", set=1, nsamples=16)
    path = folder / "metrics" / f"{trial.item(0, 'trial_id')}.parquet"
    lost = {"value": pl.when(~HERE).then("value"), "reason": pl.when(HERE).then(pl.lit("logits are NaN"))}
    pl.read_parquet(path).with_columns(**lost).write_parquet(path)
    study = load(str(folder))
    sets = component_table(study).filter(model="small", method_label="Wanda 50%", component="set within source")
    assert dict(sets.select("task", "levels").iter_rows()) == {"lambada": 9, "piqa": 8, MEAN: 8}
    assert "(first: small · Wanda 50% · code · 1 · piqa · acc: logits are NaN)" in study.limitations[0].text
