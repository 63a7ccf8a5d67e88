"""Do tasks (or models) order the sources alike, beyond what shared sets would make them?

Kendall's W is 1 when every judge orders the sources alike. Its usual test shuffles each judge's ranks on their own, and
that is wrong here: one calibration set moves all tasks alike, so tasks agree on the luck of the sets where sources do
not differ at all. W itself cannot tell the two apart. So the test asks for an order of *sources* that the judges share:
each judge ranks the sets, a set gets its mean rank, and sources are told apart by how these differ between them,
against whole sets that change their sources with all their values; whatever moves the judges together stays together.
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
    scale = _scale(means[0])
    if scale == 0:
        return Agreement(float("nan"), float("nan"), ranks.mean(axis=0), "every judge ties all sources")
    w = 12 * float(((ranks.sum(axis=0) - ranks.sum(axis=0).mean()) ** 2).sum()) / scale
    if counts.max() < 2:
        return Agreement(
            w, float("nan"), ranks.mean(axis=0), "one set per source: sets and sources cannot be told apart"
        )
    score = stats.rankdata(np.round(values, 12), axis=0).mean(axis=1)  # of each set, over judges
    rng = np.random.default_rng(0)
    places = rng.permuted(np.broadcast_to(np.arange(len(owner)), (permutations, len(owner))), axis=1)
    observed, null = _between(score[None], owner)[0], _between(score[places], owner)
    p = (1 + int((null >= observed - 1e-9).sum())) / (1 + permutations)
    return Agreement(w, p, ranks.mean(axis=0))


def _between(scores: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Squares of the source means of [studies, sets] around the mean over sets, a source counting by its sets."""
    counts = np.bincount(owner)
    sums = np.stack([scores[:, owner == source].sum(axis=1) for source in range(len(counts)) if counts[source]], axis=1)
    return np.asarray((sums**2 / counts[counts > 0]).sum(axis=1))


def _means(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Source means, [studies, judges, sources], of values [studies, sets, judges]."""
    share = np.stack([(owner == source) / (owner == source).sum() for source in np.unique(owner)])
    return np.einsum("ks,nsj->njk", share, values)


def _scale(means: np.ndarray) -> float:
    """What W divides by, corrected for ties."""
    judges, items = means.shape
    ties = 0.0
    for row in np.round(means, 12):
        counts = np.unique(row, return_counts=True)[1]
        ties += float((counts**3 - counts).sum())
    return judges**2 * (items**3 - items) - judges * ties
