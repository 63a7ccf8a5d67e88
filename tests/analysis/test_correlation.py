"""Rank correlations against scipy, and the three levels on data where they differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from scipy import stats

from analysis.correlation import _levels, correlate, correlation_table
from analysis.frames import load


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


def test_levels_take_out_methods_and_sources() -> None:
    """A metric that tells methods apart and nothing else is perfect over all trials and useless within them."""
    rng = np.random.default_rng(2)
    rows = [
        {
            "method_label": f"m{m}",
            "source": f"s{s}",
            "set": k,
            "x": -10.0 * m + rng.normal(),
            "y": -10.0 * m + rng.normal(),
        }
        for m in range(4)
        for s in range(6)
        for k in range(4)
    ]
    levels = _levels(pl.DataFrame(rows))
    rho = {name: stats.spearmanr(points["x"], points["y"]).statistic for name, points in levels.items()}
    assert rho["all trials"] > 0.9
    assert abs(rho["between sources"]) < 0.5
    assert abs(rho["within sources"]) < 0.3
    assert {name: points.height for name, points in levels.items()} == {
        "all trials": 96,
        "between sources": 24,
        "within sources": 96,
    }


def test_table_is_signed_so_that_plus_one_is_perfect(simulated: Path) -> None:
    table = correlation_table(load(str(simulated)))
    assert set(table["metric"]) == {"perplexity_increase", "js_divergence", "layer_error"}
    assert (table.filter(level="all trials")["spearman"] > 0.3).all()
    assert ((table["spearman_low"] <= table["spearman"]) & (table["spearman"] <= table["spearman_high"])).all()
