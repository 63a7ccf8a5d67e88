"""The three levels of a correlation on data where they differ, and the signs of the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from analysis.correlation import correlation_table, levels_of
from analysis.estimates.correlations import correlation
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
    levels = {level.name: level for level in levels_of(pl.DataFrame(rows))}
    rho = {
        name: correlation(
            *(level.points[column].to_numpy() for column in ("x", "y", "cluster", "group")), level.freedom or 0
        ).spearman[0]
        for name, level in levels.items()
    }
    assert rho["all trials"] > 0.9
    assert abs(rho["between sources"]) < 0.9
    assert abs(rho["within sources"]) < 0.3
    assert {name: (level.points.height, level.freedom) for name, level in levels.items()} == {
        "all trials": (96, None),
        "between sources": (6, 5),
        "within sources": (96, 18),
    }


def test_table_is_signed_so_that_plus_one_is_perfect(simulated: Path) -> None:
    table = correlation_table(load(str(simulated)))
    assert set(table["metric"]) == {"perplexity_increase", "js_divergence", "layer_error"}
    assert (table.filter(level="all trials")["spearman"] > 0.3).all()
    known = table.drop_nulls("spearman_low")
    assert ((known["spearman_low"] <= known["spearman"]) & (known["spearman"] <= known["spearman_high"])).all()
    assert set(known["level"]) == {"within sources"}  # three sources are too few to correlate between them
    assert (table.filter(level="all trials")["note"] != "").all()
