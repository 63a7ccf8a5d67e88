from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.described import descriptor_correlations, descriptor_table
from analysis.frames import load
from analysis.measures import MEAN
from sweep.results import Results


@pytest.fixture
def folder(simulated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(simulated, tmp_path / "study"))


def write_descriptors(folder: Path, values: dict[str, float], name: str, target: str = "", model: str = "") -> None:
    results = Results(folder)
    for key, value in values.items():
        row = {"calibration_id": key, "model": model, "descriptor": name, "target": target}
        results.write_table("descriptors", key, [{**row, "value": value, "seconds": 0.5}])


def test_descriptor_that_is_the_outcome_correlates_perfectly(folder: Path) -> None:
    study = load(str(folder))
    outcome = study.main.filter(measure="accuracy", task=MEAN, model="small", method_label="Wanda 50%")
    known = outcome.join(study.trials.select("trial_id", "calibration_id"), on="trial_id")
    write_descriptors(folder, dict(known.select("calibration_id", "value").iter_rows()), "oracle")
    found = descriptor_correlations(load(str(folder))).filter(descriptor="oracle", measure="accuracy", model="small")
    assert found["level"].to_list() == ["within sources"]  # three sources are too few points
    assert found.item(0, "spearman") > 0
    assert found.item(0, "spearman_low") <= found.item(0, "spearman") <= found.item(0, "spearman_high")
    assert (
        found.item(0, "n") == study.main.filter(measure="accuracy", task=MEAN, model="small").drop_nulls("set").height
    )


def test_larger_descriptor_of_a_better_set_has_a_positive_sign(folder: Path) -> None:
    study = load(str(folder))
    chosen = {"task": MEAN, "model": "large", "measure": "perplexity_increase"}
    outcome = (
        study.main.filter(**chosen)
        .drop_nulls("set")
        .join(study.trials.select("trial_id", "calibration_id"), on="trial_id")
    )
    means = outcome.group_by("calibration_id").agg(pl.col("value").mean())
    write_descriptors(folder, dict(means.iter_rows()), "cost")
    found = descriptor_correlations(load(str(folder))).filter(model="large", measure="perplexity_increase")
    assert (found["spearman"] < 0).all()


def test_descriptor_of_a_model_is_related_to_this_model_alone(folder: Path) -> None:
    ids = load(str(folder)).trials["calibration_id"].drop_nulls().unique().sort()
    numbers = np.random.default_rng(0).normal(size=len(ids))
    write_descriptors(folder, dict(zip(ids, numbers, strict=True)), "perplexity", model="small")
    assert set(descriptor_correlations(load(str(folder)))["model"]) == {"small"}


def test_descriptor_of_a_method_is_related_to_trials_of_this_method_alone(folder: Path) -> None:
    study = load(str(folder))
    ids = study.trials["calibration_id"].drop_nulls().unique().sort()
    numbers = np.random.default_rng(0).normal(size=len(ids))
    write_descriptors(folder, dict(zip(ids, numbers, strict=True)), "target_error of Wanda 50%", model="small")
    found = descriptor_correlations(load(str(folder))).filter(measure="accuracy", level="within sources")
    of_method = study.main.filter(measure="accuracy", task=MEAN, model="small", method_label="Wanda 50%")
    assert found["n"].to_list() == [of_method.drop_nulls("set").height]


def test_table_has_mean_and_sd_over_sets(folder: Path) -> None:
    study = load(str(folder))
    sets = study.trials.filter(source="books", condition=study.condition)["calibration_id"].unique().sort()
    write_descriptors(folder, {key: float(number) for number, key in enumerate(sets)}, "entropy", target="legal")
    row = descriptor_table(load(str(folder))).row(0, named=True)
    assert (row["source"], row["descriptor"], row["target"], row["sets"]) == ("books", "entropy", "legal", 3)
    assert (row["mean"], row["sd"], row["seconds"]) == (1.0, 1.0, 0.5)
