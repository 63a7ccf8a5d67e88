"""What several targets say together of the luck of a full draw: the variance of each that its screens lead to expect.

Full draws are few, and the least of many SDs that were each estimated from a handful of them is far too small: where
losses are counted in SDs, that target then decides alone. Screens are more, and how much less a full draw varies than
its screen is much the same from target to target. So each target's variance is drawn towards that of its screens times
the usual ratio of the *other* targets, by as many degrees of freedom as the ratios agree (variances moderated by an
empirical Bayes law, Smyth 2004, section 4; medians in place of moments, since one SD that is small by luck must not
hide itself).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

NORMAL_MEDIAN = 0.6745  # of the absolute value of a standard normal number
MOST, LEAST = 1e4, 1e-2  # degrees of freedom between which the equation is solved


def anticipated(
    screen: Sequence[dict[int, np.ndarray]], full: Sequence[dict[int, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """(variance of a full draw that is expected of each target, its degrees of freedom), float64 [targets] each.

    screen, full: per arm {draw: losses, float64 [targets]}. Zero degrees where nothing is to be learned: one target,
    no two draws of an arm at both fidelities, or targets whose screens do not vary.
    """
    targets = next((len(v) for draws in (*full, *screen) for v in draws.values()), 0)
    nothing = np.ones(targets), np.zeros(targets)
    squares, freedom = _squares(screen)
    both = [sorted(s.keys() & f.keys()) for s, f in zip(screen, full, strict=True)]
    low, pairs = _squares([{d: s[d] for d in draws} for s, draws in zip(screen, both, strict=True)])
    high, _ = _squares([{d: f[d] for d in draws} for f, draws in zip(full, both, strict=True)])
    if targets < 2 or not pairs or not (low > 0).all():
        return nothing
    with np.errstate(divide="ignore"):
        ratio = np.log(high / low)
    others = np.array([np.median(np.delete(ratio, t)) for t in range(targets)])
    if not np.isfinite(others).all():
        return nothing
    spread = (np.median(np.abs(ratio - others)) / NORMAL_MEDIAN) ** 2
    unlike = max(float(spread - 2 * special.polygamma(1, pairs / 2)), 0.0)  # beyond the error of the ratios themselves
    degrees = _degrees(unlike + float(special.polygamma(1, freedom / 2)))
    return squares / freedom * np.exp(others), np.full(targets, degrees)


def _squares(groups: Sequence[dict[int, np.ndarray]]) -> tuple[np.ndarray, int]:
    """(sums of squares within arms [targets], their degrees of freedom)."""
    parts = [np.array(list(draws.values())) for draws in groups if draws]
    if not parts:
        return np.zeros(0), 0
    return np.sum([((p - p.mean(axis=0)) ** 2).sum(axis=0) for p in parts], axis=0), sum(len(p) - 1 for p in parts)


def _degrees(variance: float) -> float:
    """Degrees of freedom of a χ² whose logarithm has this variance; 0 where they are fewer than `LEAST`."""
    if variance >= special.polygamma(1, LEAST / 2):
        return 0.0
    return float(optimize.brentq(lambda d: special.polygamma(1, d / 2) - variance, LEAST, MOST))
