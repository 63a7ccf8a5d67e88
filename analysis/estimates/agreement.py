"""Do tasks (or models) order the sources alike, beyond what shared sets would make them?

Kendall's W is 1 when every judge orders the sources alike. Its usual test shuffles each judge's ranks on their own, and
that is wrong here: one calibration set moves all tasks alike, so tasks agree on the luck of the sets where sources do
not differ at all. Here whole sets, with all their values, change their sources; whatever moves the judges together
stays together. The test asks whether sources differ in an order that the judges share, given that sets are luck.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

PERMUTATIONS = 1999


@dataclass(frozen=True)
class Agreement:
    """`w` is NaN where every judge ties all sources; `p` is NaN where sets cannot change places, and `why` says so."""

    w: float
    p: float
    ranks: np.ndarray
    why: str = ""


def agreement(values: np.ndarray, owner: np.ndarray, permutations: int = PERMUTATIONS) -> Agreement:
    """Kendall's W of the order of source means, with the p value of sets that change their sources.

    values: float64 [sets, judges], smaller is better, without holes. owner: the source of each set, int [sets] from 0.
    `ranks` are the mean ranks of the sources.
    """
    _, counts = np.unique(owner, return_counts=True)
    means = _means(values[None], owner)
    ranks = stats.rankdata(means[0], axis=1)
    observed, scale = _square(means)[0], _scale(means[0])
    if scale == 0:
        return Agreement(float("nan"), float("nan"), ranks.mean(axis=0), "every judge ties all sources")
    w = 12 * observed / scale
    if counts.max() < 2:
        return Agreement(
            w, float("nan"), ranks.mean(axis=0), "one set per source: sets and sources cannot be told apart"
        )
    rng = np.random.default_rng(0)
    places = rng.permuted(np.broadcast_to(np.arange(len(owner)), (permutations, len(owner))), axis=1)
    null = _square(_means(values[places], owner))
    p = (1 + int((null >= observed - 1e-9).sum())) / (1 + permutations)
    return Agreement(w, p, ranks.mean(axis=0))


def _means(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Source means, [studies, judges, sources], of values [studies, sets, judges]."""
    share = np.stack([(owner == source) / (owner == source).sum() for source in np.unique(owner)])
    return np.einsum("ks,nsj->njk", share, values)


def _square(means: np.ndarray) -> np.ndarray:
    """Sum of squares of the rank sums around their mean, [studies]."""
    judges, items = means.shape[1:]
    ranks = stats.rankdata(np.round(means, 12), axis=2)
    return np.asarray(((ranks.sum(axis=1) - judges * (items + 1) / 2) ** 2).sum(axis=1))


def _scale(means: np.ndarray) -> float:
    """What W divides by, corrected for ties."""
    judges, items = means.shape
    ties = 0.0
    for row in np.round(means, 12):
        counts = np.unique(row, return_counts=True)[1]
        ties += float((counts**3 - counts).sum())
    return judges**2 * (items**3 - items) - judges * ties
