"""The windows of ordinary perplexity: neither boilerplate, which is too likely, nor noise, which is too unlikely."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calib.select import Candidates, Selector, register
from calib.settings import settings


@register("middle_perplexity")
@settings
class MiddlePerplexity(Selector):
    """Nearest to the pool's median first, by the logarithm."""

    needs = "perplexity"

    def order(self, candidates: Candidates, count: int, random: Callable[[int], np.ndarray]) -> np.ndarray:
        logarithms = np.log(candidates.measured)
        return np.argsort(np.round(np.abs(logarithms - np.median(logarithms)), 9), kind="stable")[:count]
