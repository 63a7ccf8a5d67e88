"""Matrices of single outcomes hold exactly what samples/ hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl

from analysis.frames import load
from analysis.outcomes import outcomes_by_model, read_outcomes


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
