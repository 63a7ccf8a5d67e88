"""Lexical coverage, the rule of ZipCal (https://arxiv.org/abs/2603.16105): as many different words as windows can hold.

The concepts of a window are its tokens, lower-cased and without blanks around them. The next window is always the one
with most concepts that none before it has; ties go to the one with more concepts, then to the earlier. When nothing is
left to cover, the windows with most concepts follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from calib.select import Candidates, Selector, register
from calib.settings import settings


@register("lexical")
@settings
class Lexical(Selector):
    """Greedy coverage of concepts."""

    def order(self, candidates: Candidates, count: int, random: Callable[[int], np.ndarray]) -> np.ndarray:
        return cover([np.unique(window) for window in _concepts(candidates)], count)


def cover(concepts: Sequence[np.ndarray], count: int) -> np.ndarray:
    """The `count` windows of greedy coverage, in the order in which they are taken; (count,), int64.

    `concepts`: the different numbers of each window, sorted.
    """
    sizes = np.array([len(window) for window in concepts])
    gains, left = sizes.copy(), np.ones(len(concepts), dtype=bool)
    covered = np.zeros(max((int(window[-1]) for window in concepts if len(window)), default=-1) + 1, dtype=bool)
    windows_of = _inverted(concepts, len(covered))
    chosen = np.empty(count, dtype=np.int64)
    for turn in range(count):
        chosen[turn] = best = int(np.lexsort((-sizes, -gains, ~left))[0])
        left[best] = False
        fresh = concepts[best][~covered[concepts[best]]]
        covered[fresh] = True
        for concept in fresh:
            gains[windows_of[concept]] -= 1
    return chosen


def _concepts(candidates: Candidates) -> np.ndarray:
    """The concept of each token, a number; (windows, length)."""
    ids, places = np.unique(candidates.tokens, return_inverse=True)
    words = [word.lower().strip() for word in candidates.words_of(ids)]
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return np.array([numbers[word] for word in words], dtype=np.int64)[places.reshape(candidates.tokens.shape)]


def _inverted(concepts: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """The windows that hold each concept."""
    windows = np.repeat(np.arange(len(concepts)), [len(window) for window in concepts])
    flat = np.concatenate(concepts) if concepts else np.empty(0, dtype=np.int64)
    order = np.argsort(flat, kind="stable")
    return np.split(windows[order], np.cumsum(np.bincount(flat, minlength=count))[:-1])
