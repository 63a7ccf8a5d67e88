"""Would other test examples order the sources alike? Split-half reliability, and the examples that a measure needs.

The examples are cut into two random halves, and each half orders the sources by their means over sets. Spearman's
correlation between the two orders, averaged over many cuts, is what half of the examples are good for; the
Spearman-Brown formula carries it to all of them, r = 2 h / (1 + h), and to any other number (Spearman 1910; Brown 1910,
British Journal of Psychology 3). A measure whose halves do not agree says nothing about sources, whatever its
intervals. The hard case is the mean over tasks: every task is cut by itself and weighs alike, as in the mean.

The sets are the same in both halves, so this is about the examples alone: the luck of a draw agrees with itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CUTS = 200  # the average then moves by less than .02 from one seed to the next


@dataclass(frozen=True)
class Reliability:
    """Of one measure. None where it is not defined: fewer than three sources or four examples, or no differences.

    half:        mean over cuts of Spearman's correlation between the orders of the halves; `low`, `high`: the middle
                 95 % of the cuts.
    reliability: that of all examples, by Spearman-Brown.
    examples:    how many there are, in all tasks together.
    """

    sources: int
    examples: int
    half: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def reliability(self) -> float | None:
        return None if self.half is None else 2 * self.half / (1 + abs(self.half))

    def needed(self, wanted: float) -> int | None:
        """Examples with which the reliability is `wanted`, all else alike; None where halves do not agree at all."""
        found = self.reliability
        if found is None or found <= 0:
            return None
        return int(np.ceil(self.examples * wanted * (1 - found) / (found * (1 - wanted))))


def split_half(
    matrices: Sequence[np.ndarray], sources: Sequence[str], rng: np.random.Generator, cuts: int = CUTS
) -> Reliability:
    """Reliability of the order of sources by the mean over tasks of their examples' means.

    matrices: a task each, float [trials, examples] without NaN; sources: the source of each trial.
    """
    names = sorted(set(sources))
    owner = np.array([[source == name for source in sources] for name in names], np.float64)
    owner /= owner.sum(axis=1, keepdims=True)
    count = sum(matrix.shape[1] for matrix in matrices)
    found = Reliability(len(names), count)
    if len(names) < 3 or min(matrix.shape[1] for matrix in matrices) < 4:
        return found
    first, second = np.zeros((cuts, len(names))), np.zeros((cuts, len(names)))
    for matrix in matrices:
        means = owner @ matrix.astype(np.float64)  # (sources, examples)
        examples = matrix.shape[1]
        drawn = rng.permuted(np.tile(np.arange(examples) < examples // 2, (cuts, 1)), axis=1)
        half = drawn @ means.T
        first += half / (examples // 2)
        second += (means.sum(axis=1) - half) / (examples - examples // 2)
    h = _spearman(first, second)
    if np.isnan(h).all():
        return found
    low, high = np.nanquantile(h, [0.025, 0.975])
    return Reliability(len(names), count, float(np.nanmean(h)), float(low), float(high))


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each pair of rows [cuts]; NaN where a row has no order."""
    x, y = (stats.rankdata(np.round(values, 12), axis=1) for values in (a, b))
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    size = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.divide((x * y).sum(axis=1), size, out=np.full(len(x), np.nan), where=size > 0)
