"""Does a spread change with the size of the model? A slope of log variance on log size, with honest degrees of freedom.

Models differ in more than their size, so the error of the slope comes from how far the models lie around the line, and
its degrees of freedom are models minus two: two models lie on a line whatever they are, and give a slope without an
interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special, stats


@dataclass(frozen=True)
class Trend:
    """What one unit of x multiplies an SD by; interval and p are None where there are fewer than three models."""

    factor: float
    low: float | None
    high: float | None
    p: float | None
    freedom: int


def log_variance_trend(variances: np.ndarray, freedom: np.ndarray, x: np.ndarray) -> Trend:
    """Weighted least squares of log variance on x.

    variances: one per model, with the degrees of freedom of each, which weigh it: the variance of log χ² is known.
    Raises ValueError unless two models differ in x.
    """
    if len(np.unique(x)) < 2:
        raise ValueError("a trend needs models of two sizes")
    half = np.asarray(freedom, float) / 2
    y = np.log(variances) - (special.digamma(half) - np.log(half))  # the mean of log χ²/df is not zero
    weight = 1 / special.polygamma(1, half)
    centre = x - np.average(x, weights=weight)
    slope = float((weight * centre * y).sum() / (weight * centre**2).sum())
    factor, left = float(np.exp(slope / 2)), len(x) - 2
    if left < 1 or len(np.unique(x)) < 3:
        return Trend(factor, None, None, None, max(left, 0))
    rest = y - np.average(y, weights=weight) - slope * centre
    error = float(np.sqrt((weight * rest**2).sum() / left / (weight * centre**2).sum()))
    half_width = float(stats.t.ppf(0.975, left)) * error
    low, high = (float(np.exp((slope + sign * half_width) / 2)) for sign in (-1, 1))
    p = float(2 * stats.t.sf(abs(slope) / error, left)) if error > 0 else None
    return Trend(factor, low, high, p, left)
