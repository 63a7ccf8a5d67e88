"""Tables of ranks, agreement and trends hold what they promise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis.estimates.welch import LOPSIDED
from analysis.frames import Study, load
from analysis.ranking import EQUAL, agreement_table, rank_table, sensitivity_table, trend_table


@pytest.fixture(scope="module")
def study(simulated: Path) -> Study:
    return load(str(simulated))


def test_table_lists_every_source_and_its_probabilities_sum_to_one(study: Study) -> None:
    for measure in ("accuracy", "perplexity_increase"):
        table = rank_table(study, measure)
        assert table.height == 2 * 4 * 3
        told = table.filter(pl.col("note") == "")
        sums = told.group_by("model", "method_label").agg(pl.col("p_best").sum())["p_best"]
        assert np.allclose(sums, 1)
        assert table.filter(pl.col("p_best").is_null()).equals(table.filter(pl.col("note") == EQUAL))
        top = table.group_by("model", "method_label", maintain_order=True).first()
        means = table.group_by("model", "method_label").agg(
            pl.col("mean").max() if measure == "accuracy" else pl.col("mean").min()
        )
        assert np.isclose(top["mean"].sort(), means["mean"].sort()).mean() > 0.8


def test_agreement_is_over_tasks_and_over_models(study: Study) -> None:
    table = agreement_table(study)
    assert table.filter(over="tasks").height == 8
    assert table.filter(over="models").height == 4
    assert (table.filter(over="tasks")["judges"] == 2).all()


def test_sensitivity_interval_is_that_of_a_standard_deviation(study: Study) -> None:
    row = sensitivity_table(study, "perplexity_increase").row(0, named=True)
    freedom = row["freedom"]
    assert 2 - 1e-9 <= freedom <= 6
    low, high = (row["sd_within"] * (freedom / stats.chi2.ppf(q, freedom)) ** 0.5 for q in (0.975, 0.025))
    assert np.isclose(row["low"], low)
    assert row["high"] > high  # it rests on fewer
    cells = study.calibrated.filter(
        measure="perplexity_increase", task="mean", model=row["model"], method_label=row["method_label"]
    )
    assert np.isclose(row["sd_within"] ** 2, cells.group_by("source").agg(pl.col("value").var())["value"].mean())


def test_two_sets_of_one_source_against_many_of_the_other_have_no_interval_of_the_sd(study: Study) -> None:
    few = (pl.col("source") == study.trials["source"].drop_nulls().min()) & (pl.col("set") < 2)
    many = pl.col("source") == study.trials["source"].drop_nulls().max()
    rows = sensitivity_table(replace(study, values=study.values.filter(few | many)), "perplexity_increase")
    assert rows["note"].to_list() == [f"no interval: {LOPSIDED}"] * rows.height
    assert rows["low"].null_count() == rows["high"].null_count() == rows.height > 0


def test_trend_of_two_models_has_a_slope_and_no_interval(study: Study) -> None:
    table = trend_table(study, "perplexity_increase")
    assert table["models"].to_list() == [2, 2, 2, 2]
    assert table["factor_per_tenfold"].null_count() == 0
    assert table["low"].null_count() == table["p"].null_count() == 4
    assert table["note"].str.contains("no interval").all()
