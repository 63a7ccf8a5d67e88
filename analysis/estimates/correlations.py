"""Rank correlation of two measures with an interval that knows which trials belong together.

On Fisher's scale a rank correlation of n independent points has a known error (Spearman: Bonett and Wright 2000,
Kendall: Fieller, Hartley and Pearson 1957). Points here are fewer than they look: a source's mean that was taken out
costs one each, and trials that share a calibration set go together. How much that costs is the ratio of two jackknives,
one that leaves out whole sets and one that leaves out points; the jackknife's own error is too large for ranks and
cancels in the ratio. With fewer than `FEWEST` independent clusters left there is no interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

FEWEST = 4
PAIRS = 2_000_000  # pairs of points looked at together


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho and Kendall's tau-b with 95 % intervals; None where there is none, and `why` says why."""

    spearman: tuple[float, float | None, float | None]
    kendall: tuple[float, float | None, float | None]
    freedom: int
    why: str = ""


def correlation(x: np.ndarray, y: np.ndarray, clusters: np.ndarray, groups: np.ndarray, freedom: int) -> Correlation:
    """Correlation of x and y, each centred within its group (one group for all: nothing is taken out).

    clusters: what is left out together. freedom: independent clusters that are left after centring.
    """
    few = f"{freedom} {'degree of freedom is' if freedom == 1 else 'degrees of freedom are'} too few for an interval"
    why = "" if freedom >= FEWEST else few
    points = len(x) - len(np.unique(groups)) + 1
    values = correlations_of_kept(x, y, groups, np.ones((1, len(x)), bool))[0]
    several = not why and len(np.unique(clusters)) < len(x)
    costs = _costs(x, y, clusters, groups) if several else np.ones(2)
    found = []
    scales = ((_spearman_error, _spearman_step), (_kendall_error, _kendall_step))
    for value, cost, (error, step) in zip(values.tolist(), costs.tolist(), scales, strict=True):
        low = high = None
        if not why and not np.isnan(value):
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


def _costs(x: np.ndarray, y: np.ndarray, clusters: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """By what the variance of rho and tau grows because the points of a cluster go together, [2].

    From 1 to the points of a cluster.
    """
    together = _jackknife(x, y, clusters, groups)
    apart = _jackknife(x, y, np.arange(len(x)), groups)
    most = len(x) / len(np.unique(clusters))
    return np.clip(np.divide(together, apart, out=np.full(2, most), where=apart > 0), 1.0, most)


def _jackknife(x: np.ndarray, y: np.ndarray, clusters: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Variance of Fisher's z of rho and of tau from leaving out each cluster, [2]."""
    kept = clusters != np.unique(clusters)[:, None]
    return np.array([_variance_of_z(left[~np.isnan(left)]) for left in correlations_of_kept(x, y, groups, kept).T])


def _variance_of_z(left: np.ndarray) -> float:
    z = np.arctanh(np.clip(left, -0.999999, 0.999999))
    return float((len(z) - 1) / max(len(z), 1) * ((z - z.mean()) ** 2).sum()) if len(z) > 1 else 0.0


def correlations_of_kept(x: np.ndarray, y: np.ndarray, groups: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Spearman's rho and Kendall's tau-b of the points that each row of `kept` [rows, points] keeps, [rows, 2].

    Both are sums over pairs of points of the signs of their differences: a point's rank around the middle one is half
    the sum of its signs. NaN where fewer than three points are kept or one measure ties them all.
    """
    member = _members(groups)
    found = np.full((len(kept), 2), np.nan)
    rows = max(PAIRS // len(x) ** 2, 1)
    for start in range(0, len(kept), rows):
        part = kept[start : start + rows]
        a, b = (_signs(centred(values, member, part), part) for values in (x, y))
        products, untied_a, untied_b = (_sum(pairs) for pairs in (a * b, np.abs(a), np.abs(b)))
        ranks, others = a.sum(axis=2, dtype=np.float64), b.sum(axis=2, dtype=np.float64)
        squares = (ranks**2).sum(axis=1) * (others**2).sum(axis=1)
        enough = (part.sum(axis=1) > 2) & (untied_a * untied_b > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            both = np.stack(
                [(ranks * others).sum(axis=1) / squares**0.5, products / (untied_a * untied_b) ** 0.5], axis=1
            )
        found[start : start + rows][enough] = both[enough]
    return found


def _sum(pairs: np.ndarray) -> np.ndarray:
    return np.asarray(pairs.sum(axis=(1, 2), dtype=np.float64))


def _members(groups: np.ndarray) -> np.ndarray:
    """1 where a point is of a group, [points, groups]."""
    names, place = np.unique(groups, return_inverse=True)
    return np.eye(len(names))[place]


def centred(values: np.ndarray, member: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Values minus the mean of what each row keeps of their group, [rows, points].

    member: 1 where a point is of a group, [points, groups]; kept: bool [rows, points].
    """
    means = ((kept * values) @ member) / np.maximum(kept @ member, 1)
    return np.round(values - means @ member.T, 12)


def _signs(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Signs of the differences of all points that are kept, float32 [rows, points, points]; 0 where one is not."""
    signs = np.sign(values[:, :, None] - values[:, None, :]).astype(np.float32)
    return np.asarray(signs * (kept[:, :, None] & kept[:, None, :]))
