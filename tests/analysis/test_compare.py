"""Comparisons: right error rates where nothing differs, and the plainest counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis.compare import (
    _paired,
    _welch,
    domain_match,
    flip_table,
    holm,
    mcnemar_table,
    method_pairs,
    new_source_wins,
    source_pairs,
    wilson,
)
from analysis.estimates.examples import example_variance, mcnemar_p
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


def test_two_equal_sources_are_told_apart_in_five_percent_of_studies_and_never_more_after_holm() -> None:
    rng = np.random.default_rng(0)
    alarms = families = 0
    for _ in range(400):
        cells = rng.normal(0, 1, (4, 5))
        p = [float(str(_welch(cells[i], cells[j], None)["p"])) for i in range(4) for j in range(i)]
        alarms += p[0] < 0.05
        families += min(holm(p)) < 0.05
    assert 0.02 < alarms / 400 < 0.08
    assert families / 400 < 0.08


def test_interval_of_two_sources_covers_their_difference() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(500):
        row = _welch(rng.normal(1, 1, 5), rng.normal(0, 2, 8), None)
        covered += float(str(row["low"])) <= 1 <= float(str(row["high"]))
    assert 0.92 < covered / 500 < 0.98


def test_probability_for_a_new_draw_is_how_often_new_draws_win() -> None:
    rng = np.random.default_rng(2)
    said, happened = [], []
    for _ in range(3000):
        truth = rng.normal(0, 3)  # effects of every size, so that being sure is not being lucky
        a, b = rng.normal(truth, 1, 6), rng.normal(0, 1, 6)
        said.append(float(str(_welch(a, b, None)["a_wins_new_draw"])))
        happened.append(rng.normal(truth, 1) > rng.normal(0, 1))
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        inside = (np.array(said) >= low) & (np.array(said) <= high)
        assert abs(np.mean(np.array(said)[inside]) - np.mean(np.array(happened)[inside])) < 0.07


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


def test_probability_for_a_new_test_set_is_how_often_it_comes_true() -> None:
    """Two methods, five sources of four sets, sixty examples that each favour one of them; then all of it anew."""
    rng = np.random.default_rng(6)
    sources, sets, examples = 5, 4, 60
    said, happened = [], []
    for _ in range(2000):
        truth = rng.normal(0, 60)  # effects of every size, so that being sure is not being lucky

        def answered(sources: int, sets: int, truth: float = truth) -> np.ndarray:
            favour = truth + rng.normal(0, 100, examples)
            text = rng.normal(0, 8, (sources, 1)) + rng.normal(0, 60, (sources, examples)) + favour
            draws = rng.normal(0, 8, (sources, sets, 1)) + rng.normal(0, 60, (sources, sets, examples))
            return (text[:, None] + draws).reshape(-1, examples)

        seen, names = answered(sources, sets), np.repeat(np.arange(sources), sets).tolist()
        row = _paired(seen.mean(axis=1), names, example_variance(seen, names))
        said.append(float(str(row["a_wins_new_test"])))
        happened.append(answered(1, 1).mean() > 0)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        inside = (np.array(said) >= low) & (np.array(said) <= high)
        assert abs(np.mean(np.array(said)[inside]) - np.mean(np.array(happened)[inside])) < 0.07


def test_variance_of_the_test_examples_is_recovered() -> None:
    rng = np.random.default_rng(7)
    names = ["a"] * 3 + ["b"] * 5 + ["c"] * 2
    place = np.unique(names, return_inverse=True)[1]

    def differences() -> np.ndarray:
        crossed = rng.normal(0, 4, (3, 80))[place]  # some sources favour some examples
        return rng.normal(0, 3, (1, 80)) + crossed + rng.normal(0, 5, (10, 80)) + rng.normal(0, 2, (10, 1))

    found = [example_variance(differences(), names) for _ in range(600)]
    assert np.isclose(np.mean(np.array(found, float)), 9 / 80, rtol=0.07)
    assert example_variance(np.array([[1.0], [2.0]]), ["a", "b"]) is None


SHAPES = ((3,) * 3, (10,) * 5, (10,) * 3, (10,) * 8, (5,) * 2, (2, 4, 9), (1, 1, 1, 1))


@pytest.mark.parametrize("ratio", [0, 1, 4])
@pytest.mark.parametrize("counts", SHAPES)
def test_probability_for_a_new_set_of_a_new_source_is_how_often_it_wins(counts: tuple[int, ...], ratio: int) -> None:
    """Sources are drawn as well as sets, `ratio` times their variance, and the new set is of none that was seen.

    The new value is subtracted from every value, so that a stated probability has to be right at any true difference.
    """
    rng = np.random.default_rng(9)
    sure = []
    for _ in range(1000):
        new = rng.normal(0, ratio**0.5) + rng.normal(0, 1)
        groups = [rng.normal(0, ratio**0.5) + rng.normal(0, 1, count) - new for count in counts]
        stated = new_source_wins(groups)
        assert stated is not None
        sure.append(max(stated, 1 - stated))
    for level, much in ((0.8, 0.04), (0.95, 0.02), (0.99, 0.01)):
        true = (1 + np.mean(np.array(sure) <= level)) / 2
        assert true > level - much
        if len(counts) > 4:  # with fewer sources it may err on the side of too little
            assert true < level + much + 0.01


def test_one_source_tells_nothing_about_a_new_one() -> None:
    row = _paired(np.array([1.0, 1.2, 0.9]), ["books"] * 3, 0.1)
    assert row["a_wins_new_draw"] is None
    assert row["a_wins_new_test"] is None
    assert float(str(row["p"])) < 0.05


def test_a_thousand_sets_of_three_sources_are_three_sources() -> None:
    rng = np.random.default_rng(3)
    names = np.repeat(np.arange(3), 1000)
    gap = np.array([1.0, 2.0, 3.0])[names] + rng.normal(0, 0.01, 3000)
    expected = stats.t.cdf(2 / (4 / 3) ** 0.5, 2)
    assert np.isclose(float(str(_paired(gap, names.tolist())["a_wins_new_draw"])), expected, atol=0.005)


def test_paired_interval_covers_the_difference_of_methods() -> None:
    rng = np.random.default_rng(3)
    sources = np.repeat(np.arange(5), 4)
    effects = np.array([0.5, 1.0, 1.5, 0.8, 1.2])
    covered = 0
    for _ in range(400):
        row = _paired(effects[sources] + rng.normal(0, 1, 20), sources.tolist())
        covered += float(str(row["low"])) <= effects.mean() <= float(str(row["high"]))
    assert 0.92 < covered / 400 < 0.98


def test_holm_equals_its_definition() -> None:
    assert np.allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_wilson_interval_of_a_known_share() -> None:
    low, high = wilson(8, 10)
    assert np.allclose([low, high], [0.490162, 0.943318], atol=1e-5)


def test_mcnemar_equals_the_binomial_test() -> None:
    a, b = np.array([10, 0, 3, 7]), np.array([2, 0, 3, 1])
    expected = [stats.binomtest(int(x), int(x + y)).pvalue if x + y else 1.0 for x, y in zip(a, b, strict=True)]
    assert np.allclose(mcnemar_p(a, b), expected)


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
