"""The published tables, against the same numbers computed in the plainest way."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis import cells
from analysis.frames import Study, load
from analysis.measures import MEAN


@pytest.fixture(scope="module")
def study(simulated: Path) -> Study:
    return load(str(simulated))


def accuracies(study: Study, model: str, label: str, source: str | None, nsamples: int | None = 16) -> dict[int, float]:
    """Mean accuracy of each set in percent, by hand from metrics/ and trials/."""
    found = {}
    for trial in study.trials.iter_rows(named=True):
        same = (trial["model"], trial["method_label"], trial["source"], trial["nsamples"])
        if same == (model, label, source, nsamples):
            rows = study.metrics.filter(pl.col("trial_id") == trial["trial_id"], pl.col("kind") == "task")
            found[trial["set"]] = 100 * statistics.mean(rows["value"].to_list())
    return found


def test_source_table_is_mean_and_sd_over_sets_of_the_mean_accuracy(study: Study) -> None:
    table = cells.source_table(study, "accuracy")
    for row in table.filter(pl.col("source").is_not_null()).iter_rows(named=True):
        values = list(accuracies(study, row["model"], row["method_label"], row["source"]).values())
        assert row["n"] == len(values) == 3
        assert math.isclose(row["mean"], statistics.mean(values))
        assert math.isclose(row["sd"], statistics.stdev(values))


def test_interval_is_the_t_interval_of_the_mean(study: Study) -> None:
    row = cells.source_table(study).filter(pl.col("source") == "code").row(0, named=True)
    half = 4.302652729911275 * row["sd"] / math.sqrt(3)  # t quantile with two degrees of freedom
    assert math.isclose(row["low"], row["mean"] - half)
    assert math.isclose(row["high"], row["mean"] + half)


def test_a_set_that_is_far_off_moves_neither_median_nor_typical_sd(study: Study) -> None:
    plain = cells.source_table(study).filter(pl.col("source").is_not_null())
    assert plain["median"].null_count() == plain["sd_typical"].null_count() == 0
    assert set(plain["note"]) == {""}
    usual = study.calibrated.filter(measure="accuracy", task=MEAN, source="books").head(1)
    same = {name: usual.item(0, name) for name in ("model", "method_label", "source", "measure", "task")}
    others = study.values.filter(~pl.all_horizontal(pl.col(name) == value for name, value in same.items()))
    values = [*np.random.default_rng(0).normal(50, 1, 9), 20.0]
    ten = pl.concat([usual] * 10).with_columns(
        pl.Series("value", values), pl.Series("set", range(10), dtype=usual.schema["set"])
    )
    row = cells.source_table(replace(study, values=pl.concat([others, ten]))).filter(
        model=same["model"], method_label=same["method_label"], source="books"
    )
    assert row["note"].to_list() == ["one of 10 sets of books is far off"]
    assert row.item(0, "sd") > 8 > 2 > row.item(0, "sd_typical")
    assert abs(row.item(0, "median") - 50) < 1 < 2 < abs(row.item(0, "mean") - 50)


def test_data_free_and_dense_rows_have_one_trial_and_no_spread(study: Study) -> None:
    table = cells.source_table(study).filter(pl.col("source").is_null())
    assert set(table["method"]) == {"dense", "rtn", "magnitude"}
    assert table["n"].to_list() == [1] * 6
    assert table["sd"].null_count() == 6


def test_range_table_spans_all_sets_of_all_sources(study: Study) -> None:
    for row in cells.range_table(study, "accuracy").iter_rows(named=True):
        found = [
            list(accuracies(study, row["model"], row["method_label"], s).values()) for s in ("books", "code", "legal")
        ]
        values = [value for cell in found for value in cell]
        assert row["n"] == 9
        assert math.isclose(row["range"], max(values) - min(values))
        assert math.isclose(row["sd_within"], math.sqrt(statistics.mean(statistics.variance(c) for c in found)))
        assert math.isclose(row["sd_sources"], statistics.stdev(statistics.mean(c) for c in found))


def test_task_table_holds_every_task_and_source(study: Study) -> None:
    table = cells.task_table(study)
    row = table.filter(method_label="Wanda 50%", model="small", task="piqa", source="legal").row(0, named=True)
    ids = study.trials.filter(method_label="Wanda 50%", model="small", source="legal", nsamples=16)[
        "trial_id"
    ].to_list()
    values = study.metrics.filter(pl.col("trial_id").is_in(ids), pl.col("task") == "piqa")["value"]
    assert math.isclose(row["mean"], 100 * values.mean())  # type: ignore[operator]
    assert math.isclose(row["sd"], 100 * values.std())  # type: ignore[operator]


def test_size_table_has_each_size_of_the_study(study: Study) -> None:
    table = cells.size_table(study).filter(model="small", method_label="Wanda 50%", source="code")
    assert table["nsamples"].to_list() == [4, 16]
    for row in table.iter_rows(named=True):
        values = accuracies(study, "small", "Wanda 50%", "code", row["nsamples"]).values()
        assert math.isclose(row["mean"], statistics.mean(values))


def test_perplexity_increase_is_relative_to_dense_and_its_mean_is_geometric(study: Study) -> None:
    def perplexities(trial_id: str) -> dict[str, float]:
        rows = study.metrics.filter(pl.col("trial_id") == trial_id, pl.col("kind") == "perplexity")
        return dict(rows.select("task", "value").iter_rows())

    dense = perplexities(study.trials.filter(model="small", method="dense").item(0, "trial_id"))
    trial = study.trials.filter(model="small", method="wanda").row(0, named=True)["trial_id"]
    ratios = {text: value / dense[text] for text, value in perplexities(trial).items()}
    values = study.values.filter(trial_id=trial, measure="perplexity_increase")
    for text, ratio in ratios.items():
        assert math.isclose(values.filter(task=text).item(0, "value"), 100 * (ratio - 1))
    assert math.isclose(
        values.filter(task=MEAN).item(0, "value"), 100 * (statistics.geometric_mean(ratios.values()) - 1)
    )


def test_domain_table_compares_with_the_average_source_on_the_same_text(study: Study) -> None:
    table = cells.domain_table(study).filter(model="small", method_label="Wanda 50%")
    assert math.isclose(table.filter(text="code")["advantage"].sum(), 0, abs_tol=1e-9)
    assert table.filter(pl.col("matched"))["source"].to_list() == ["books", "code", "legal"]
    assert table.filter(pl.col("matched"))["advantage"].mean() > 1  # the simulation rewards the own domain


def test_wide_table_prints_mean_and_sd(study: Study) -> None:
    wide = cells.wide_table(study).filter(model="small", method="Wanda 50%")
    values = list(accuracies(study, "small", "Wanda 50%", "code").values())
    assert wide.item(0, "code") == f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def test_layer_table_averages_linears_then_trials(study: Study) -> None:
    row = cells.layer_table(study).filter(model="small", method_label="Wanda 50%", block=1).row(0, named=True)
    layers = study.results.read("layers").join(
        study.trials.filter(method="wanda", model="small", nsamples=16).select("trial_id"), on="trial_id", how="semi"
    )
    means = layers.filter(block=1).group_by("trial_id").agg(pl.col("relative_error").mean())["relative_error"]
    assert row["n"] == 9
    assert math.isclose(row["mean"], means.mean())  # type: ignore[arg-type]
    assert math.isclose(row["sd"], means.std())  # type: ignore[arg-type]
