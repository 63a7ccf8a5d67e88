"""Windows whose activations are nearest to those of a target, after ACDM (https://openreview.net/forum?id=pfw3saHzGU).

A window is the mean and the variance of every channel of the inputs of some blocks, standardised over the pool; its
distance is summed over the blocks. The hard case is a target of several topics: the windows nearest to the middle of
them are all alike, where `activation_herding` keeps the mean of the set there instead.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calib.select import Candidates, Selector, register
from calib.settings import settings
from calib.source import Source, SourceSetting


@register("centroid")
@settings
class Centroid(Selector):
    """`target`: a source of the text that the set shall resemble; not what is evaluated, which would leak."""

    needs = "moments"

    target: SourceSetting | None = None

    def __post_init__(self) -> None:
        if self.target is None:
            raise ValueError("target: give the source of the text that the set shall resemble")

    def order(self, candidates: Candidates, count: int, random: Callable[[int], np.ndarray]) -> np.ndarray:
        windows, target = candidates.standardised()
        if target is None:
            raise ValueError("target_features: the rule needs those of its target, got None")
        apart = windows - target.mean(axis=0)
        distances = np.sqrt((apart.reshape(len(apart), apart.shape[1], -1) ** 2).sum(axis=2)).sum(axis=1)
        return np.argsort(np.round(distances, 10), kind="stable")[:count]

    def target_source(self) -> Source | None:
        return self.target
