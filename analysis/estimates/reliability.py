"""Would other test examples order the sources alike? Split-half reliability, and the examples that a measure needs.

The examples are cut into two random halves, and each half orders the sources by their means over sets. Spearman's
correlation between the two orders, averaged over many cuts, is what half of the examples are good for; the
Spearman-Brown formula carries it to all of them, r = 2 h / (1 + h), and to any other number (Spearman 1910; Brown 1910,
British Journal of Psychology 3). A measure whose halves do not agree says nothing about sources, whatever its
intervals. A half in which all sources are equal orders none, and agrees with no other: its correlation is 0. Left out,
a measure that hardly ever sees a difference would be judged by the cuts in which it does. The hard case is the mean
over tasks: every task is cut by itself and weighs alike, as in the mean.

The sets are the same in both halves, so this is about the examples alone: the luck of a draw agrees with itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

CUTS = 200  # the average then moves by less than .02 from one seed to the next


@dataclass(frozen=True)
class Reliability:
    """Of one measure. None where it is not defined: fewer than three sources, or four examples of a task.

    half:        mean over cuts of Spearman's correlation between the orders of the halves, 0 where sources do not
                 differ; `low`, `high`: the middle 95 % of the cuts.
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


@dataclass
class Cuts:
    """Random halves of examples, drawn in turn from one seed. What was drawn once is kept, for `Halves` to come.

    Every measure and method of a study is cut by the same seed, so with tasks of the same sizes in the same order it is
    cut alike; drawing two hundred halves of ten thousand examples takes longer than whatever is done with them.
    """

    seed: int
    cuts: int = CUTS
    _drawn: dict[tuple[int, ...], tuple[np.ndarray, Mapping[str, Any]]] = field(default_factory=dict, repr=False)

    def after(self, sizes: tuple[int, ...]) -> np.ndarray:
        """The halves of the last of `sizes` after those of the others, float64 [cuts, examples], 1 in the first."""
        if sizes not in self._drawn:
            rng = np.random.default_rng(self.seed)
            if sizes[:-1]:
                self.after(sizes[:-1])
                rng.bit_generator.state = self._drawn[sizes[:-1]][1]
            first = np.arange(sizes[-1]) < sizes[-1] // 2
            halves = rng.permuted(np.tile(first, (self.cuts, 1)), axis=1).astype(np.float64)
            self._drawn[sizes] = halves, rng.bit_generator.state
        return self._drawn[sizes][0]


class Halves:
    """One run through `cuts`: each call gives new halves."""

    def __init__(self, cuts: Cuts) -> None:
        self.cuts = cuts
        self._sizes: tuple[int, ...] = ()

    def of(self, examples: int) -> np.ndarray:
        """Halves of so many examples, float64 [cuts, examples]: 1 in the first half and 0 in the second."""
        self._sizes += (examples,)
        return self.cuts.after(self._sizes)


def source_means(matrix: np.ndarray, sources: Sequence[str]) -> np.ndarray:
    """Mean outcome of each source on each example, float64 [sources, examples], in the order of the names.

    matrix: float [trials, examples] without NaN; sources: the source of each trial.
    """
    owner = np.array([[source == name for source in sources] for name in sorted(set(sources))], np.float64)
    owner /= owner.sum(axis=1, keepdims=True)
    return np.asarray(owner @ matrix.astype(np.float64, copy=False))


def split_half(tasks: Sequence[np.ndarray], halves: Halves) -> Reliability:
    """Reliability of the order of sources by the mean over tasks of their examples' means.

    tasks: the `source_means` of each, [sources, examples].
    """
    return split_halves([tasks], halves)[0]


def split_halves(cases: Sequence[Sequence[np.ndarray]], halves: Halves) -> list[Reliability]:
    """`split_half` of several measures or methods, whose tasks have as many sources and examples each, cut alike.

    The halves of ten thousand examples are read once for all of them: that is what takes the time.
    """
    sources, cuts = len(cases[0][0]), halves.cuts.cuts
    sizes = [means.shape[1] for means in cases[0]]
    unknown = Reliability(sources, sum(sizes))
    if sources < 3 or min(sizes) < 4:
        return [unknown] * len(cases)
    first, second = np.zeros((cuts, len(cases) * sources)), np.zeros((cuts, len(cases) * sources))
    for examples, *every in zip(sizes, *cases, strict=True):
        means = np.concatenate(every)  # (cases x sources, examples)
        half = halves.of(examples) @ means.T
        first += half / (examples // 2)
        second += (means.sum(axis=1) - half) / (examples - examples // 2)
    agreed = _spearman(*(values.reshape(cuts, len(cases), sources) for values in (first, second)))
    return [_averaged(h, unknown) for h in agreed.T]


def _averaged(h: np.ndarray, unknown: Reliability) -> Reliability:
    """The reliability of correlations of halves [cuts]."""
    low, high = np.quantile(h, [0.025, 0.975])
    return Reliability(unknown.sources, unknown.examples, float(h.mean()), float(low), float(high))


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each pair of rows [..., sources]; 0 where a row has no order."""
    x, y = (_ranked(np.round(values, 12)) for values in (a, b))
    size = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    return np.divide((x * y).sum(axis=-1), size, out=np.zeros(size.shape), where=size > 0)


def _ranked(values: np.ndarray) -> np.ndarray:
    """Ranks of each row around their middle, ties in the middle of theirs; rows are many and short."""
    above, below = np.zeros(values.shape), np.zeros(values.shape)
    for column in range(values.shape[-1]):
        above += values > values[..., column, None]
        below += values < values[..., column, None]
    return np.asarray((above - below) / 2)
