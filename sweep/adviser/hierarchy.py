"""What targets have in common: how closely screens follow full trials, and how far apart the arms lie.

With few arms one target says little of either, eight of them say much, since they are judged on the same trials. Each
has its own correlation ρ of true screens with true full losses, and its own ratio of the SD τ of arms to that of draws.
The laws that these come from are the same for all targets and unknown: ρ = 2 Beta(a, 1) - 1, and log(τ / s) is normal
around a centre with a width. The laws are drawn by their likelihood on all targets together, and the proposals of each
target are weighed again under the law that was drawn. A target that is alone keeps the prior of the ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

RATIOS = np.exp(np.linspace(np.log(0.05), np.log(60.0), 48))  # of τ to the SD of a draw: the support of its prior,
PRIOR = RATIOS / (1 + RATIOS**2) / (RATIOS / (1 + RATIOS**2)).sum()  # a half-Cauchy law (Gelman 2006), on a log grid
RHO = (4.0, 1.0)  # of the Beta law from which ρ is proposed: mean .6, below zero once in sixteen
CLOSE = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])  # a: mean of ρ 0 to .94
CENTRES = np.log([0.1, 0.2, 0.35, 0.7, 1.2, 2.0, 4.0, 7.0, 13.0, 25.0])
WIDTHS = np.array([0.4, 0.8])  # targets' ratios within a factor of 1.5 or 2.2 of each other


@dataclass(frozen=True)
class Proposals:
    """Of one target, [proposals] each: the log of their weights under the priors of one target, ρ, and τ over the SD of
    a draw."""

    log_weight: np.ndarray
    rho: np.ndarray
    ratio: np.ndarray


def kept(targets: Sequence[Proposals], draws: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Which proposals of each target stand for its posterior, int [draws] each, the law being one in each draw."""
    weights = [np.exp(one.log_weight - one.log_weight.max()) for one in targets]
    close = [_closeness(one.rho) for one in targets]  # [a, proposals]
    apart = [_distance(one.ratio) if len(targets) > 1 else np.ones((1, len(one.ratio))) for one in targets]
    with np.errstate(divide="ignore"):
        parts = zip(weights, close, apart, strict=True)
        log = np.sum([np.log((weight * a) @ b.T) for weight, a, b in parts], axis=0)  # [a, laws of the ratio]
    log += np.log(_before() if len(targets) > 1 else 1.0)
    numbers = np.bincount(resample(np.exp(log - log.max()).ravel(), draws, rng), minlength=log.size)
    laws = [(a, b, n) for (a, b), n in zip(product(*map(range, log.shape)), numbers, strict=True) if n]
    return [
        np.concatenate([resample(weight * one[a] * other[b], n, rng) for a, b, n in laws])
        for weight, one, other in zip(weights, close, apart, strict=True)
    ]


def resample(weight: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` indices, each about as often as its weight says, in random order (systematic resampling)."""
    edges = weight.cumsum() / weight.sum()
    picked = np.searchsorted(edges, (np.arange(count) + rng.random()) / count).clip(max=len(weight) - 1)
    return rng.permutation(picked)


def _closeness(rho: np.ndarray) -> np.ndarray:
    """Density of ρ under each a, over that from which it was proposed, [a, proposals]."""
    return np.asarray(CLOSE[:, None] / RHO[0] * ((1 + rho) / 2) ** (CLOSE[:, None] - RHO[0]))


def _distance(ratio: np.ndarray) -> np.ndarray:
    """Density of log(τ / s) under each law, over its half-Cauchy prior, [centres x widths, proposals]."""
    log = np.log(ratio)
    z = (log - CENTRES[:, None, None]) / WIDTHS[:, None]
    normal = np.exp(-(z**2) / 2) / WIDTHS[:, None] / np.sqrt(2 * np.pi)
    return np.asarray((normal * np.pi * np.cosh(log)).reshape(-1, len(ratio)))


def _before() -> np.ndarray:
    """Prior of the laws of the ratio: the centre has the half-Cauchy prior that a ratio has, [centres x widths]."""
    return np.repeat(np.gradient(CENTRES) / np.cosh(CENTRES), len(WIDTHS))
