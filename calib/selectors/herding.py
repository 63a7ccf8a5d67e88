"""Herding (https://arxiv.org/abs/1206.6471) on n-gram features: a set whose mean stays near that of a target text.

Each window is a vector of hashed token pairs, its length made 1. The next window is always the one that brings the
mean of the chosen ones nearest to the target's mean, so the set follows the whole target and not its commonest topic,
as the windows most similar to it would. Without a target it is the pool's own mean: a set that represents its source.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
from pydantic import Field

from calib.ngrams import token_ngrams
from calib.select import Candidates, Selector, register
from calib.settings import settings
from calib.source import Source, SourceSetting


@register("herding")
@settings
class Herding(Selector):
    """`n`: tokens of an n-gram. `features`: how many numbers the n-grams are hashed into. `target`: a source of
    the text that the set shall resemble; not what is evaluated, which would leak.
    """

    n: Annotated[int, Field(ge=1, le=8)] = 2
    features: Annotated[int, Field(ge=16, le=1 << 16)] = 2_048
    target: SourceSetting | None = None

    def order(self, candidates: Candidates, count: int, random: Callable[[int], np.ndarray]) -> np.ndarray:
        windows = self._vectors(candidates.tokens)
        target = windows if candidates.target is None else self._vectors(candidates.target)
        return herd(windows, target.mean(axis=0), count)

    def _vectors(self, tokens: np.ndarray) -> np.ndarray:
        """(windows, features), float64, of length 1."""
        hashes, owners = token_ngrams(list(tokens), self.n)
        places = owners * self.features + (hashes % np.uint64(self.features)).astype(np.int64)
        counts = np.bincount(places, minlength=len(tokens) * self.features).reshape(len(tokens), -1)
        vectors = np.sqrt(counts.astype(np.float64))  # a repeated pair counts less than a second one
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def target_source(self) -> Source | None:
        return self.target


def herd(vectors: np.ndarray, target: np.ndarray, count: int) -> np.ndarray:
    """The rows whose running mean stays nearest to `target`, greedily; (count,), int64.

    With the sum s of t rows chosen, the distance of (s + v) / (t + 1) from the target orders as
    |v|^2 + 2 v (s - (t + 1) target).
    """
    squares = (vectors**2).sum(axis=1)
    toward = vectors @ target
    with_sum = np.zeros(len(vectors))
    left = np.ones(len(vectors), dtype=bool)
    chosen = np.empty(count, dtype=np.int64)
    for turn in range(count):
        distance = np.where(left, squares + 2 * with_sum - 2 * (turn + 1) * toward, np.inf)
        chosen[turn] = best = int(np.argmin(np.round(distance, 10)))  # ties go to the earlier on every machine
        left[best] = False
        with_sum += vectors @ vectors[best]
    return chosen
