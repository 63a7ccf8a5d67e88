"""Rank correlation of two measures with an interval that knows which trials belong together.

On Fisher's scale a rank correlation of n independent points has a known error (Spearman: Bonett and Wright 2000,
Kendall: Fieller, Hartley and Pearson 1957). Points here are fewer than they look: a source's mean that was taken out
costs one each, and trials that share a calibration set go together. How much that costs is the ratio of two jackknives,
one that leaves out whole sets and one that leaves out points; the jackknife's own error is too large for ranks and
cancels in the ratio. With fewer than `FEWEST` independent clusters left there is no interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

FEWEST = 4


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho and Kendall's tau-b with 95 % intervals; None where there is none, and `why` says why."""

    spearman: tuple[float, float | None, float | None]
    kendall: tuple[float, float | None, float | None]
    freedom: int
    why: str = ""


def centred(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Values minus the mean of their group."""
    member = np.unique(groups, return_inverse=True)[1]
    return np.asarray(x - (np.bincount(member, x) / np.bincount(member))[member])


def correlation(x: np.ndarray, y: np.ndarray, clusters: np.ndarray, groups: np.ndarray, freedom: int) -> Correlation:
    """Correlation of x and y, each centred within its group (one group for all: nothing is taken out).

    clusters: what is left out together. freedom: independent clusters that are left after centring.
    """
    why = "" if freedom >= FEWEST else f"{freedom} degrees of freedom are too few for an interval"
    points = len(x) - len(np.unique(groups)) + 1
    found = []
    for measure, error, step in (
        (_spearman, _spearman_error, _spearman_step),
        (_kendall, _kendall_error, _kendall_step),
    ):
        value = measure(centred(x, groups), centred(y, groups))
        low = high = None
        if not why and not np.isnan(value):
            cost = _cost(measure, x, y, clusters, groups) if len(np.unique(clusters)) < len(x) else 1.0
            half = float(stats.norm.ppf(0.975)) * error(value, points) * cost**0.5
            most = 1 - step(points) / 2  # a perfect order of few points is certain of no more than its last step
            centre = float(np.arctanh(np.clip(value, -most, most)))
            low, high = min(float(np.tanh(centre - half)), value), max(float(np.tanh(centre + half)), value)
        found.append((value, low, high))
    return Correlation(found[0], found[1], freedom, why)


def _spearman_error(value: float, points: int) -> float:
    return float(((1 + value**2 / 2) / max(points - 3, 1)) ** 0.5)


def _kendall_error(value: float, points: int) -> float:
    return float((0.437 / max(points - 4, 1)) ** 0.5)


def _spearman_step(points: int) -> float:
    """From a perfect order to the next one: two neighbours changed."""
    return 12 / (max(points, 3) * (max(points, 3) ** 2 - 1))


def _kendall_step(points: int) -> float:
    return 4 / (max(points, 3) * (max(points, 3) - 1))


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(np.round(x, 12)), stats.rankdata(np.round(y, 12)))[0, 1])


def _kendall(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    dx, dy = np.sign(np.round(x[:, None] - x, 12)), np.sign(np.round(y[:, None] - y, 12))
    scale = np.sqrt(float(np.abs(dx).sum()) * float(np.abs(dy).sum()))
    return float((dx * dy).sum() / scale) if scale else float("nan")


Measure = Callable[[np.ndarray, np.ndarray], float]


def _cost(measure: Measure, x: np.ndarray, y: np.ndarray, clusters: np.ndarray, groups: np.ndarray) -> float:
    """By what the variance grows because the points of a cluster go together; from 1 to the points of a cluster."""
    together = _jackknife(measure, x, y, clusters, groups)
    apart = _jackknife(measure, x, y, np.arange(len(x)), groups)
    most = len(x) / len(np.unique(clusters))
    return float(np.clip(together / apart, 1.0, most)) if apart > 0 else most


def _jackknife(measure: Measure, x: np.ndarray, y: np.ndarray, clusters: np.ndarray, groups: np.ndarray) -> float:
    """Variance of Fisher's z from leaving out each cluster."""
    left = []
    for name in np.unique(clusters):
        kept = clusters != name
        left.append(measure(centred(x[kept], groups[kept]), centred(y[kept], groups[kept])))
    z = np.arctanh(np.clip(np.array(left)[~np.isnan(left)], -0.999999, 0.999999))
    return float((len(z) - 1) / max(len(z), 1) * ((z - z.mean()) ** 2).sum()) if len(z) > 1 else 0.0
