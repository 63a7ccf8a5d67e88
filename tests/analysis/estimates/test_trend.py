"""A trend over model sizes with the degrees of freedom it has."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.estimates.trend import log_variance_trend

SIZES = np.log10([1e6, 4e6, 16e6, 64e6])


@pytest.mark.parametrize("scatter", [0.0, 0.6])
def test_interval_holds_the_slope_also_where_models_lie_off_the_line(scatter: float) -> None:
    rng = np.random.default_rng(0)
    truth = 0.5 ** (SIZES - 6)  # SD halves per tenfold
    covered = 0
    for _ in range(400):
        off = np.exp(scatter * rng.normal(size=4))
        found = log_variance_trend((truth * off) ** 2 * rng.chisquare(8, 4) / 8, np.full(4, 8.0), SIZES)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.5 <= found.high
    assert 0.92 < covered / 400 < 0.985


def test_two_models_have_a_slope_and_no_interval() -> None:
    found = log_variance_trend(np.array([1.0, 0.25]), np.array([5.0, 5.0]), np.array([6.0, 7.0]))
    assert np.isclose(found.factor, 0.5)
    assert (found.low, found.high, found.p, found.freedom) == (None, None, None, 0)


def test_models_of_one_size_have_no_trend() -> None:
    with pytest.raises(ValueError, match="two sizes"):
        log_variance_trend(np.ones(3), np.ones(3), np.full(3, 6.0))
