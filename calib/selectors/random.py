"""Random choice out of the pool: what every other rule must beat at equal cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calib.select import Candidates, Selector, register
from calib.settings import settings


@register("random")
@settings
class Random(Selector):
    """Any windows of the pool."""

    def order(self, candidates: Candidates, count: int, random: Callable[[int], np.ndarray]) -> np.ndarray:
        return np.argsort(random(len(candidates.tokens)), kind="stable")[:count]
