"""Coverage of outlier channels, after CoverCal (https://arxiv.org/abs/2604.24008): every large channel at its largest.

A few channels of the hidden states are many times as large as the others, and a set in which one of them stays small
gives it a grid that is too narrow in use. A channel is an outlier where its largest size over the pool exceeds
`threshold` times the median channel's; a window covers it by reaching `reach` of that size. The next window is always
the one that covers most of what is left, by size; when all is covered, it begins anew, so each channel is covered as
often as the others allow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
from pydantic import Field

from calib.select import Candidates, Selector, register
from calib.settings import SettingsError, settings


@register("outlier_coverage")
@settings
class OutlierCoverage(Selector):
    """`threshold`: times the median channel's largest size. `reach`: share of a channel's largest size."""

    needs = "outliers"

    threshold: Annotated[float, Field(gt=0)] = 6.0
    reach: Annotated[float, Field(gt=0, le=1)] = 0.8

    def order(self, candidates: Candidates, count: int, random: Callable[[int], np.ndarray]) -> np.ndarray:
        sizes = candidates.measured  # (windows, layers, width)
        largest = sizes.max(axis=0)
        relative = largest / np.median(largest, axis=1, keepdims=True)
        outliers = relative > self.threshold
        if not outliers.any():
            raise SettingsError(
                f"select.threshold: no channel reaches {self.threshold:g} times the median channel in this pool (the "
                f"largest {relative.max():.3g} times); lower it"
            )
        covers = sizes[:, outliers] >= self.reach * largest[outliers]
        return cover_weighted(covers, relative[outliers], count)


def cover_weighted(covers: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """The `count` windows of greedy weighted coverage, in the order in which they are taken; (count,), int64.

    `covers` (windows, items), bool; `weights` (items,). Ties go to the earlier window.
    """
    left = np.ones(len(covers), dtype=bool)
    waiting = np.ones(len(weights), dtype=bool)
    chosen = np.empty(count, dtype=np.int64)
    for turn in range(count):
        gains = covers @ np.where(waiting, weights, 0.0)
        if not gains[left].any():
            waiting[:] = True
            gains = covers @ weights
        chosen[turn] = best = int(np.argmax(np.where(left, np.round(gains, 10), -1.0)))
        left[best] = False
        waiting &= ~covers[best]
    return chosen
