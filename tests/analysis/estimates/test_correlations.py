"""Rank correlations against scipy, and intervals that hold the truth."""

from __future__ import annotations

import numpy as np
from scipy import stats

from analysis.estimates.correlations import correlate


def test_estimates_equal_scipy_with_and_without_ties() -> None:
    rng = np.random.default_rng(0)
    for ties in (False, True):
        x, y = rng.normal(size=40), rng.normal(size=40)
        x, y = (np.round(x, 1), np.round(y, 1)) if ties else (x, y + x)
        found = correlate(x, y, np.arange(40).astype(str), rng)
        assert np.isclose(found["spearman"], stats.spearmanr(x, y).statistic)
        assert np.isclose(found["kendall"], stats.kendalltau(x, y).statistic)


def test_interval_covers_the_true_correlation() -> None:
    rng = np.random.default_rng(1)
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's rho of a normal pair with correlation 0.6
    covered = 0
    for _ in range(80):
        x, noise = rng.normal(size=(2, 80))
        found = correlate(x, 0.6 * x + 0.8 * noise, np.arange(80).astype(str), rng)
        covered += found["spearman_low"] <= truth <= found["spearman_high"]
    assert 0.88 < covered / 80 <= 1
