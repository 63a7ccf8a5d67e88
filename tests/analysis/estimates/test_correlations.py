"""Rank correlations against scipy, and intervals that hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.estimates.correlations import FEWEST, centred, correlation, correlations_of_kept


def alone(x: np.ndarray, y: np.ndarray):  # type: ignore[no-untyped-def]
    """Every point a cluster, nothing taken out."""
    return correlation(x, y, np.arange(len(x)), np.zeros(len(x), int), len(x) - 1)


def test_estimates_equal_scipy_with_and_without_ties() -> None:
    rng = np.random.default_rng(0)
    for ties in (False, True):
        x, y = rng.normal(size=40), rng.normal(size=40)
        x, y = (np.round(x, 1), np.round(y, 1)) if ties else (x, y + x)
        found = alone(x, y)
        assert np.isclose(found.spearman[0], stats.spearmanr(x, y).statistic)
        assert np.isclose(found.kendall[0], stats.kendalltau(x, y).statistic)


def test_interval_covers_the_true_correlation() -> None:
    rng = np.random.default_rng(1)
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's rho of a normal pair with correlation 0.6
    covered = 0
    for _ in range(100):
        x, noise = rng.normal(size=(2, 30))
        _, low, high = alone(x, 0.6 * x + 0.8 * noise).spearman
        assert low is not None
        assert high is not None
        covered += low <= truth <= high
    assert covered >= 87  # three standard errors below 95


def test_few_clusters_have_no_interval_and_the_reason() -> None:
    x = np.arange(FEWEST, dtype=float)
    found = correlation(x, x, np.arange(FEWEST), np.zeros(FEWEST, int), FEWEST - 1)
    assert found.spearman == (1.0, None, None)
    assert "too few" in found.why


def test_what_groups_have_in_common_is_no_correlation() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(6), 10)
    x, y = rng.normal(size=60) + 10.0 * groups, rng.normal(size=60) + 10.0 * groups
    assert alone(x, y).spearman[0] > 0.9
    inside = correlation(x, y, np.arange(60), groups, 54)
    assert abs(inside.spearman[0]) < 0.4
    kept = np.arange(60) != np.array([[3], [60]])  # one point left out, and none
    without = np.where(kept, centred(x, np.eye(6)[groups], kept), 0)
    assert np.allclose(without @ np.eye(6)[groups], 0)


def test_a_perfect_order_of_few_points_is_not_certain() -> None:
    x = np.arange(6.0)
    for sign in (1, -1):
        found = correlation(x, sign * x, np.arange(6), np.zeros(6, int), 5)
        for value, low, high in (found.spearman, found.kendall):
            assert low is not None and high is not None
            assert value == pytest.approx(sign)
            assert low <= value <= high
            assert high - low > 0.2


def test_leaving_out_clusters_equals_a_loop() -> None:
    """The jackknife behind the intervals, against SciPy on what is left."""
    rng = np.random.default_rng(7)
    groups, clusters = np.repeat(np.arange(3), 6), np.arange(18) // 2
    x = np.round(rng.normal(size=18), 1)  # with ties
    y = np.round(x + rng.normal(size=18), 1)
    kept = clusters != np.unique(clusters)[:, None]
    for row, (rho, tau) in zip(kept, correlations_of_kept(x, y, groups, kept), strict=True):
        a, b = (values[row] - [values[row & (groups == group)].mean() for group in groups[row]] for values in (x, y))
        a, b = np.round(a, 12), np.round(b, 12)
        assert rho == pytest.approx(stats.spearmanr(a, b).statistic)
        assert tau == pytest.approx(stats.kendalltau(a, b).statistic)
