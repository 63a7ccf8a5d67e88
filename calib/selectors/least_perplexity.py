"""The windows that the model finds most likely: what it has most likely seen, and understands best."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calib.select import Candidates, Selector, register
from calib.settings import settings


@register("least_perplexity")
@settings
class LeastPerplexity(Selector):
    """The lowest perplexity first."""

    needs = "perplexity"

    def order(self, candidates: Candidates, count: int, random: Callable[[int], np.ndarray]) -> np.ndarray:
        return np.argsort(np.round(np.log(candidates.measured), 9), kind="stable")[:count]
