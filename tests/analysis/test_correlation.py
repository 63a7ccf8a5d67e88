"""The three levels of a correlation on data where they differ, and the signs of the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from scipy import stats

from analysis.correlation import correlation_table, levels_of
from analysis.frames import load


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
    levels = levels_of(pl.DataFrame(rows))
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
