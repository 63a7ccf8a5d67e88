"""Herding (https://arxiv.org/abs/1206.6471) on activations: a set whose mean stays near that of a target, or the pool.

A window is the mean sizes of the inputs of some blocks, standardised over the pool. What `herding` does with words,
this does with what the model makes of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calib.select import Candidates, Selector, register
from calib.selectors.herding import herd
from calib.settings import settings
from calib.source import Source, SourceSetting


@register("activation_herding")
@settings
class ActivationHerding(Selector):
    """`target`: a source of the text that the set shall resemble; not what is evaluated, which would leak."""

    needs = "activations"

    target: SourceSetting | None = None

    def order(self, candidates: Candidates, count: int, random: Callable[[int], np.ndarray]) -> np.ndarray:
        windows, target = candidates.standardised()
        middle = (windows if target is None else target).mean(axis=0)
        return herd(windows.reshape(len(windows), -1), middle.ravel(), count)

    def target_source(self) -> Source | None:
        return self.target
