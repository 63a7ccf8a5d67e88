"""Balance of the experts of a mixture, after MoEQuant (https://arxiv.org/abs/2505.03804): each sees as many tokens.

What a router sends elsewhere an expert is never calibrated on. The next window is always the one after which the loads
of the experts, summed over the set, are most even: the standard deviation of their shares, added over the mixtures.
The public code of that paper chooses while the model writes the text; here windows of text are chosen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calib.select import Candidates, Selector, register
from calib.settings import settings


@register("expert_balance")
@settings
class ExpertBalance(Selector):
    """The most even loads over the set, greedily."""

    needs = "expert_loads"

    def order(self, candidates: Candidates, count: int, random: Callable[[int], np.ndarray]) -> np.ndarray:
        return balance(candidates.measured, count)


def balance(loads: np.ndarray, count: int) -> np.ndarray:
    """The `count` windows in the order in which they are taken, (count,), int64; `loads` (windows, mixtures, experts).

    Ties go to the earlier window.
    """
    left = np.ones(len(loads), dtype=bool)
    total = np.zeros(loads.shape[1:])
    chosen = np.empty(count, dtype=np.int64)
    for turn in range(count):
        chosen[turn] = best = int(np.argmin(np.where(left, np.round(unevenness(total + loads), 12), np.inf)))
        left[best] = False
        total += loads[best]
    return chosen


def unevenness(loads: np.ndarray) -> np.ndarray:
    """The standard deviation of the experts' shares, added over the mixtures; `loads` (..., mixtures, experts)."""
    tokens = np.maximum(loads.sum(axis=-1, keepdims=True), 1)
    return np.asarray((loads / tokens).std(axis=-1).sum(axis=-1))
