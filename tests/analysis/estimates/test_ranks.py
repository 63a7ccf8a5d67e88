"""Probabilities of being best that come true, agreement and trends against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.estimates.ranks import kendall_w, log_variance_trend, rank


def test_probability_of_being_best_comes_true() -> None:
    rng = np.random.default_rng(0)
    said, happened = [], []
    for number in range(150):
        truth = rng.normal(0, 0.5, 4)
        cells = {str(i): truth[i] + rng.normal(0, 1, 4) for i in range(4)}
        ranked = rank(cells, np.random.default_rng(number))
        for i in range(4):
            said.append(ranked[str(i)]["p_best"])
            happened.append(i == truth.argmax())
    said_array, happened_array = np.array(said), np.array(happened)
    assert abs(said_array.mean() - 0.25) < 1e-6
    unsure = said_array < 0.1
    assert happened_array[unsure].mean() < 0.2
    assert happened_array[said_array > 0.6].mean() > 0.45


@pytest.mark.parametrize("ratio", [0.1, 1, 4])
@pytest.mark.parametrize("counts", [(3, 3, 3), (3,) * 6, (10,) * 5, (2, 4, 9, 5)])
def test_the_leader_is_the_best_source_as_often_as_stated(counts: tuple[int, ...], ratio: float) -> None:
    """Sources that differ little, as sets do, and much; the one with the best mean is partly so by luck."""
    few = ratio < 1 and max(counts) < 5  # three sets cannot tell so small a difference between sources from none
    rng = np.random.default_rng(4)
    said, happened = [], []
    for _ in range(300):
        truth = rng.normal(0, ratio**0.5, len(counts))
        cells = {str(i): truth[i] + rng.normal(0, 1, count) for i, count in enumerate(counts)}
        ranked = rank(cells, rng, draws=1000)
        leader = max(cells, key=lambda name: ranked[name]["p_best"])
        new = truth + rng.normal(0, 1, len(counts))
        of_leader = ranked[leader]
        said.append([of_leader[key] for key in ("p_best", "p_best_single_set", "regret")])
        lost = truth.max() - truth[int(leader)]
        happened.append([lost == 0, new.argmax() == int(leader), lost, lost <= of_leader["regret_high"]])
    stated, true = np.mean(said, axis=0), np.mean(happened, axis=0)
    assert abs(stated[0] - true[0]) < (0.17 if few else 0.07)
    assert abs(stated[1] - true[1]) < (0.17 if few else 0.07)
    assert abs(stated[2] - true[2]) < 0.05
    assert 0.91 < true[3] <= 1


def test_means_are_drawn_together_where_sources_do_not_differ_and_stay_where_they_do() -> None:
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 1, (4, 6))
    noise -= noise.mean(axis=1, keepdims=True)
    alike = rank({str(i): noise[i] + 0.1 * i for i in range(4)}, rng)
    apart = rank({str(i): noise[i] + 10 * i for i in range(4)}, rng)
    assert alike["3"]["p_best"] < 0.5
    assert alike["0"]["regret"] < 0.4
    assert apart["3"]["p_best"] == 1
    assert abs(apart["0"]["regret"] - 30) < 0.2


def test_sets_that_do_not_differ_leave_nothing_uncertain() -> None:
    ranked = rank({"a": np.ones(3), "b": np.full(3, 2.0), "c": np.full(2, 2.0)}, np.random.default_rng(0))
    assert [ranked[name]["p_best"] for name in "abc"] == [0, 0.5, 0.5]
    assert [ranked[name]["regret"] for name in "abc"] == [1, 0, 0]


def test_regret_is_zero_for_a_certain_winner_and_large_for_a_certain_loser() -> None:
    rng = np.random.default_rng(1)
    ranked = rank({"good": 10 + rng.normal(0, 0.1, 5), "bad": rng.normal(0, 0.1, 5)}, rng)
    assert ranked["good"]["p_best"] == 1
    assert ranked["good"]["regret"] == 0
    assert 9.5 < ranked["bad"]["regret"] < 10.5


def test_one_set_per_source_says_nothing() -> None:
    assert rank({"a": np.array([1.0]), "b": np.array([2.0])}, np.random.default_rng(0)) == {"a": {}, "b": {}}


def test_kendall_w_is_one_for_agreement_and_follows_friedman() -> None:
    values = np.random.default_rng(0).normal(size=(6, 5))
    w, _, ranks = kendall_w(values)
    friedman = stats.friedmanchisquare(*values.T).statistic
    assert np.isclose(w, friedman / (6 * 4))
    assert np.isclose(ranks.sum(), 15)
    w, p, _ = kendall_w(np.tile(np.arange(6.0), (5, 1)))
    assert np.isclose(w, 1)
    assert p < 0.01


def test_kendall_w_corrects_for_ties() -> None:
    values = np.array([[1, 1, 2, 3], [1, 2, 2, 3], [1, 1, 2, 2]], float)
    w, _, _ = kendall_w(values)
    assert np.isclose(w, stats.friedmanchisquare(*values.T).statistic / (3 * 3))


def test_trend_finds_a_known_slope_with_the_right_error() -> None:
    rng = np.random.default_rng(0)
    x = np.log10([1e6, 4e6, 16e6, 64e6])
    truth = 0.5 ** (x - 6)  # SD halves per tenfold
    covered = alarms = 0
    for _ in range(500):
        found = log_variance_trend(truth**2 * rng.chisquare(8, 4) / 8, [8] * 4, x)
        covered += found["low"] <= 0.5 <= found["high"]
        alarms += log_variance_trend(rng.chisquare(8, 4) / 8, [8] * 4, x)["p"] < 0.05
    assert 0.92 < covered / 500 < 0.98
    assert 0.02 < alarms / 500 < 0.08
