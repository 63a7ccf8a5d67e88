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
# A source whose variance is so many times that of the others (their median) is asked at a level of its own: two of five
# sets at ten SDs have p below .10 nine times in ten and a ratio of thirty.
RATIO, LEVEL_WIDE = 10.0, 0.1
FEWEST = 4  # three sets always fall into two groups
DRAWS = 20_000
WORDS = "the sets of a source fall into two groups"


def two_groups(groups: Sequence[np.ndarray]) -> bool:
    """Whether the sets of some sources (per source float64 [sets]) lie in two groups more than normal draws would.

    Asked of the source that looks most like it (Bonferroni), of all together (Fisher), and less strictly of a source
    that scatters far more than the others.
    """
    groups = _unrounded(groups)
    asked = [index for index, group in enumerate(groups) if len(group) >= FEWEST and np.ptp(group) > 0]
    if not asked:
        return False
    p = _chances([groups[index] for index in asked])
    together = float(stats.chi2.sf(-2 * np.log(p).sum(), 2 * len(p)))
    if min(float(p.min()) * len(p), together) < LEVEL:
        return True
    variance = np.array([float(group.var(ddof=1)) if len(group) > 1 else np.nan for group in groups])
    return any(chance < LEVEL_WIDE and _wide(variance, index) for index, chance in zip(asked, p, strict=True))


def _wide(variance: np.ndarray, index: int) -> bool:
    """Whether a source's variance is more than `RATIO` times the median of the others'."""
    others = np.delete(variance, index)
    others = others[~np.isnan(others)]
    return bool(len(others) and variance[index] > RATIO * np.median(others))


def between_share(values: np.ndarray) -> np.ndarray:
    """Share of the squares of each row that lies between the two groups that it is best cut into; [..., sets]."""
    ordered = np.sort(values, axis=-1)
    total = _squares(ordered)
    inside = [_squares(ordered[..., :k]) + _squares(ordered[..., k:]) for k in range(1, values.shape[-1])]
    return np.asarray(1 - np.min(inside, axis=0) / total)


def _squares(values: np.ndarray) -> np.ndarray:
    return np.asarray(((values - values.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1))


def _chances(groups: Sequence[np.ndarray]) -> np.ndarray:
    """How often normal draws fall apart as much as each group; groups of one size are looked at together."""
    p = np.empty(len(groups))
    for size in sorted({len(group) for group in groups}):
        alike = [index for index, group in enumerate(groups) if len(group) == size]
        shares = between_share(np.stack([groups[index] for index in alike]).astype(float))
        p[alike] = (DRAWS - np.searchsorted(_normal(size), shares) + 1) / (DRAWS + 1)
    return p


def step_of(groups: Sequence[np.ndarray]) -> float:
    """The step in which values are recorded, where some of a source are equal; zero for values that never are.

    An accuracy over eighty answers moves in steps of 1.25 points, and two sets that agree need not be without spread.
    """
    if not any(len(set(group.tolist())) < len(group) for group in groups):
        return 0.0
    gaps = np.diff(np.unique(np.concatenate(groups)))
    largest = float(np.abs(np.concatenate(groups)).max())
    gaps = gaps[gaps > 1e-9 * max(largest, np.finfo(float).tiny)]
    return float(gaps.min()) if len(gaps) else 0.0


def _unrounded(groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The values, equal ones spread evenly over the step in which they are recorded: twelve accuracies on twenty
    questions may have two values only, and are not two groups for that."""
    step = step_of(groups)
    if not step:
        return list(groups)
    found = []
    for group in groups:
        _, place, many = np.unique(group, return_inverse=True, return_counts=True)
        order = np.argsort(place, kind="stable")
        rank = np.empty(len(group))
        rank[order] = np.concatenate([np.arange(count) for count in many])
        found.append(group + step * ((rank + 0.5) / many[place] - 0.5))
    return found


def left_over(values: np.ndarray, count: int) -> float:
    """How often normal draws leave as small a share of their squares without their `count` outermost (of both ends).

    values: float64 [sets]. Tietjen and Moore's (1972) test of outliers; as the share between two groups, its statistic
    knows nothing of the SD. 1 for a `count` of zero, and where no two sets differ.
    """
    if count == 0 or np.ptp(values) == 0:
        return 1.0
    share = _kept_share(np.asarray(values, float), count)
    return float((np.searchsorted(_normal_kept(len(values), count), share, side="right") + 1) / (DRAWS + 1))


def _kept_share(values: np.ndarray, count: int) -> np.ndarray:
    """Share of the squares of each row, [..., sets], that is left without the `count` sets that bring most of them."""
    ordered = np.sort(values, axis=-1)
    sets = ordered.shape[-1]
    kept = [_squares(ordered[..., below : sets - count + below]) for below in range(count + 1)]
    return np.asarray(np.min(kept, axis=0) / _squares(ordered))


@lru_cache(maxsize=64)
def _normal_kept(sets: int, count: int) -> np.ndarray:
    """The share that is left of normal draws, sorted."""
    return np.sort(_kept_share(np.random.default_rng([sets, count]).standard_normal((DRAWS, sets)), count))


@lru_cache(maxsize=64)
def _normal(sets: int) -> np.ndarray:
    """The share among normal draws, sorted."""
    return np.sort(between_share(np.random.default_rng(sets).standard_normal((DRAWS, sets))))
