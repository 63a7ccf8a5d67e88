"""Do the sets of a source fall into two groups? Then their SD is that of no draw, and has no honest interval.

Where two of five calibrations fail, no robust rule can call either group the far one. What gives them away is the
shape: nearly all of a source's squares lie between two groups. The share that lies between them knows nothing of the
source's own spread, so to leave out the interval of such studies does not bend the intervals of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import stats

LEVEL = 0.02  # one study in fifty with normal draws loses its interval
FEWEST = 4  # three sets always fall into two groups
DRAWS = 20_000
WORDS = "the sets of a source fall into two groups"


def two_groups(groups: Sequence[np.ndarray]) -> bool:
    """Whether the sets of some sources (per source float64 [sets]) lie in two groups more than normal draws would.

    Asked of the source that looks most like it (Bonferroni) and of all together (Fisher).
    """
    p = np.array([_p(group) for group in groups if len(group) >= FEWEST and np.ptp(group) > 0])
    if not len(p):
        return False
    together = float(stats.chi2.sf(-2 * np.log(p).sum(), 2 * len(p)))
    return bool(min(float(p.min()) * len(p), together) < LEVEL)


def between_share(values: np.ndarray) -> np.ndarray:
    """Share of the squares of each row that lies between the two groups that it is best cut into; [..., sets]."""
    ordered = np.sort(values, axis=-1)
    total = _squares(ordered)
    inside = [_squares(ordered[..., :k]) + _squares(ordered[..., k:]) for k in range(1, values.shape[-1])]
    return np.asarray(1 - np.min(inside, axis=0) / total)


def _squares(values: np.ndarray) -> np.ndarray:
    return np.asarray(((values - values.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1))


def _p(group: np.ndarray) -> float:
    """How often normal draws fall apart as much."""
    known = _normal(len(group))
    above = DRAWS - int(np.searchsorted(known, between_share(np.asarray(group, float))))
    return (above + 1) / (DRAWS + 1)


@lru_cache(maxsize=64)
def _normal(sets: int) -> np.ndarray:
    """The share among normal draws, sorted."""
    return np.sort(between_share(np.random.default_rng(sets).standard_normal((DRAWS, sets))))
