"""Rank correlations with intervals over resampled clusters of points."""

from __future__ import annotations

import numpy as np
from scipy import stats

DRAWS = 500


def correlate(x: np.ndarray, y: np.ndarray, clusters: np.ndarray, rng: np.random.Generator) -> dict[str, float | None]:
    """Spearman's rho and Kendall's tau-b with 95 % intervals over resampled clusters; None where nothing has spread."""
    names, member = np.unique(clusters, return_inverse=True)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)
    weights = drawn[:, member].astype(float)  # how often each point is in a resample
    rho = _weighted_pearson(stats.rankdata(x), stats.rankdata(y), weights)
    tau = _weighted_tau(x, y, weights)
    one = np.ones((1, len(x)))
    found: dict[str, float | None] = {
        "spearman": _known(_weighted_pearson(stats.rankdata(x), stats.rankdata(y), one)[0]),
        "kendall": _known(_weighted_tau(x, y, one)[0]),
    }
    for name, values in (("spearman", rho), ("kendall", tau)):
        low, high = np.quantile(known, [0.025, 0.975]) if len(known := values[~np.isnan(values)]) else (np.nan, np.nan)
        found |= {f"{name}_low": _known(low), f"{name}_high": _known(high)}
    return found


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _weighted_pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's correlation under each row of weights; NaN where a resample has no spread."""
    total = weights.sum(axis=1)
    mean_x, mean_y = weights @ x / total, weights @ y / total
    covariance = weights @ (x * y) / total - mean_x * mean_y
    spread = (weights @ x**2 / total - mean_x**2) * (weights @ y**2 / total - mean_y**2)
    return _ratio(covariance, spread)


def _weighted_tau(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kendall's tau-b under each row of weights."""
    dx, dy = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    agree, pairs_x, pairs_y = (((weights @ matrix) * weights).sum(axis=1) for matrix in (dx * dy, abs(dx), abs(dy)))
    return _ratio(agree, pairs_x * pairs_y)


def _ratio(top: np.ndarray, square: np.ndarray) -> np.ndarray:
    """top / √square, NaN where there is no spread."""
    safe = square > 1e-12 * max(float(square.max(initial=0.0)), 1e-300)
    return np.divide(top, np.sqrt(np.where(safe, square, 1.0)), out=np.full_like(top, np.nan), where=safe)
