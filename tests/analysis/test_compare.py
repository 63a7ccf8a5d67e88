"""Tables of comparisons, against the same numbers computed in the plainest way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis.compare import (
    _no_centre,
    domain_match,
    flip_table,
    mcnemar_table,
    method_pairs,
    source_pairs,
)
from analysis.frames import Study, load


@pytest.fixture(scope="module")
def study(simulated: Path) -> Study:
    return load(str(simulated))


def test_source_pairs_agree_with_welch_of_scipy(study: Study) -> None:
    table = source_pairs(study, "accuracy").filter(model="small", method_label="Wanda 50%")
    assert table.height == 3
    for row in table.iter_rows(named=True):
        cells = study.calibrated.filter(measure="accuracy", task="mean", model="small", method_label="Wanda 50%")
        a, b = (cells.filter(source=row[side])["value"].to_numpy() for side in "ab")
        expected = stats.ttest_ind(a, b, equal_var=False)
        assert np.isclose(row["difference"], a.mean() - b.mean())
        assert np.isclose(row["p"], expected.pvalue)
        assert np.allclose([row["low"], row["high"]], list(expected.confidence_interval()))
        assert row["low_new_test"] <= row["low"]
        assert row["high_new_test"] >= row["high"]


def test_lower_perplexity_counts_as_better(study: Study) -> None:
    row = source_pairs(study, "perplexity_increase", "code").filter(
        model="small", method_label="Wanda 50%", a="books", b="code"
    )
    cells = study.calibrated.filter(measure="perplexity_increase", task="code", model="small", method_label="Wanda 50%")
    books, code = (cells.filter(source=s)["value"].mean() for s in ("books", "code"))
    assert np.isclose(row.item(0, "difference"), code - books)  # type: ignore[operator]


def test_methods_are_paired_by_calibration_set(study: Study) -> None:
    row = method_pairs(study, "accuracy").filter(model="small", a="GPTQ 3-bit g32", b="Wanda 50%").row(0, named=True)
    cells = study.calibrated.filter(measure="accuracy", task="mean", model="small")
    gaps = []
    for source in ("books", "code", "legal"):
        for number in range(3):
            one, two = (
                cells.filter(source=source, set=number, method_label=label).item(0, "value")
                for label in (row["a"], row["b"])
            )
            gaps.append(one - two)
    assert row["pairs"] == 9
    assert np.isclose(row["difference"], np.mean(gaps))
    assert np.isclose(row["reversed"], np.mean(np.sign(gaps) != np.sign(np.mean(gaps))))


def test_a_new_test_set_makes_the_better_method_less_sure(study: Study) -> None:
    table = method_pairs(study, "accuracy")
    assert table["a_wins_new_test"].null_count() == 0
    draw, test = table["a_wins_new_draw"].to_numpy(), table["a_wins_new_test"].to_numpy()
    assert (abs(test - 0.5) <= abs(draw - 0.5)).all()
    assert (abs(test - draw) > 0.001).any()
    assert method_pairs(study, "perplexity_increase")["a_wins_new_test"].null_count() == 12


def test_flips_and_mcnemar_count_single_answers(study: Study) -> None:
    samples = study.results.read("samples").filter(pl.col("correct").is_not_null())

    def answers(**factors: object) -> dict[tuple[str, int], bool]:
        trial = study.trials.filter(**factors).filter((pl.col("nsamples") == 16) | pl.col("nsamples").is_null())
        rows = samples.filter(pl.col("trial_id") == trial.item(0, "trial_id"))
        return {(t, d): c for t, d, c in rows.select("task", "doc_id", "correct").iter_rows()}

    dense = answers(model="small", method="dense")
    lost, gained, a_only = [], [], []
    for number in range(3):
        after = answers(model="small", method="wanda", source="code", set=number)
        other = answers(model="small", method="sparsegpt", source="code", set=number)
        lost.append(100 * np.mean([dense[k] and not after[k] for k in dense]))
        gained.append(100 * np.mean([after[k] and not dense[k] for k in dense]))
        a_only.append(sum(other[k] and not after[k] for k in dense))
    row = flip_table(study).filter(model="small", method_label="Wanda 50%", source="code").row(0, named=True)
    assert row["examples"] == 140
    assert np.isclose(row["lost"], np.mean(lost))
    assert np.isclose(row["gained"], np.mean(gained))
    pair = mcnemar_table(study).filter(model="small", a="SparseGPT 2:4", b="Wanda 50%").row(0, named=True)
    assert pair["pairs"] == 9
    assert pair["examples"] == 140


def test_domain_match_recovers_the_bonus_of_the_own_domain(study: Study) -> None:
    table = domain_match(study)
    assert table.height == 8
    strong = table.filter(pl.col("method_label") == "SparseGPT 2:4")
    assert (strong["low"] > 0).all()
    assert np.allclose(table["mismatched"] - table["matched"], table["difference"])


def test_domain_match_covers_zero_when_there_is_no_bonus(tmp_path: Path) -> None:
    from analysis.simulate import Components, Design, simulate_study

    quiet = Design(
        models={"one": 10**6},
        domain_bonus=0.0,
        sets=4,
        tasks={"t": 20},
        windows=6,
        components=Components(source=0.0, set=0.01),
    )
    simulate_study(str(tmp_path), quiet)
    table = domain_match(load(str(tmp_path)))
    assert ((table["low"] < 0) & (table["high"] > 0)).sum() >= table.height - 1


def test_pair_with_a_set_that_is_far_off_has_no_interval_and_says_why(study: Study) -> None:
    chosen = pl.col("model") == "small", pl.col("method") == "wanda", pl.col("measure") == "accuracy"
    rows = study.calibrated.filter(*chosen, pl.col("task") == "mean").sort("source", "set")
    far = (pl.col("source") == "code") & (pl.col("set") == rows["set"].max())
    values = rows.with_columns(pl.when(far).then(pl.col("value") - 500).otherwise(pl.col("value")).alias("value"))
    table = source_pairs(replace(study, values=values), "accuracy")
    touched = (pl.col("a") == "code") | (pl.col("b") == "code")
    assert table.filter(touched)["low"].null_count() == table.filter(touched).height > 0
    assert table.filter(touched)["note"].str.contains("sets of code is far off").all()
    assert table.filter(~touched)["low"].null_count() == 0


def test_sets_of_a_pair_that_fall_into_two_groups_are_named() -> None:
    rng = np.random.default_rng(5)
    cells = {name: rng.normal(0, 1, 10) for name in "abc"}
    cells["c"] = cells["c"] - 10 * (np.arange(10) % 2)
    near = dict.fromkeys(cells, 0)
    assert _no_centre(cells, near, "a", "b") == ""
    assert _no_centre(cells, near, "a", "c") == "no interval: the sets of a source fall into two groups"
    assert _no_centre(cells, near | {"a": 1}, "a", "b") == "no interval: one of 10 sets of a is far off"
