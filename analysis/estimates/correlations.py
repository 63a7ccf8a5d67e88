"""Rank correlation of two measures with an interval that knows which trials belong together.

Trials that share a calibration set are not independent, and values that have had their source's mean taken out have
lost a degree of freedom per source. So whole sets (or sources) are left out in turn: the jackknife of Fisher's z over
these clusters gives the error, and Student's t with the clusters that are left as degrees of freedom gives the
interval. Where fewer than `FEWEST` degrees are left, resampling cannot know its own error and there is no interval.
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
    found = []
    for measure in (_spearman, _kendall):
        value = measure(centred(x, groups), centred(y, groups))
        low = high = None
        if not why and not np.isnan(value):
            low, high = _jackknife(measure, x, y, clusters, groups, value, freedom)
        found.append((value, low, high))
    return Correlation(found[0], found[1], freedom, why)


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


def _jackknife(
    measure: Callable[[np.ndarray, np.ndarray], float],
    x: np.ndarray,
    y: np.ndarray,
    clusters: np.ndarray,
    groups: np.ndarray,
    value: float,
    freedom: int,
) -> tuple[float, float]:
    """95 % interval on the scale of Fisher's z."""
    names = np.unique(clusters)
    left = []
    for name in names:
        kept = clusters != name
        left.append(measure(centred(x[kept], groups[kept]), centred(y[kept], groups[kept])))
    z = np.arctanh(np.clip(np.array(left)[~np.isnan(left)], -0.999999, 0.999999))
    count = len(z)
    error = float(np.sqrt((count - 1) / count * ((z - z.mean()) ** 2).sum()))
    half = float(stats.t.ppf(0.975, freedom)) * error
    centre = float(np.arctanh(np.clip(value, -0.999999, 0.999999)))
    return float(np.tanh(centre - half)), float(np.tanh(centre + half))
