"""Rank correlations against scipy, and intervals that hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.estimates.correlations import FEWEST, centred, correlation


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
    assert np.isclose(np.bincount(groups, centred(x, groups)), 0).all()


def test_a_perfect_order_of_few_points_is_not_certain() -> None:
    x = np.arange(6.0)
    for sign in (1, -1):
        found = correlation(x, sign * x, np.arange(6), np.zeros(6, int), 5)
        for value, low, high in (found.spearman, found.kendall):
            assert low is not None and high is not None
            assert value == pytest.approx(sign)
            assert low <= value <= high
            assert high - low > 0.2
