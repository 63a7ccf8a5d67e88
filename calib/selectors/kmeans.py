"""K-means on activations, after COLA (https://arxiv.org/abs/2510.10618): one window out of each kind of window.

A window is the mean sizes of the inputs of some blocks, standardised, and projected on random signs where that is
wide. As many clusters are sought as a set may hold windows, and each gives the member nearest to its centre. The hard
case is nesting: the clusters are those of the largest set, and the ones with most members come first, so a smaller set
is the beginning of a larger one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calib.select import Candidates, Selector, register
from calib.settings import settings

WIDTH = 256  # numbers of a window after the projection: distances of a thousand windows survive it within a few percent
RESTARTS = 10  # the best of so many beginnings
ROUNDS = 100  # of one of them, which mostly ends after ten to thirty


@register("kmeans")
@settings
class KMeans(Selector):
    """The windows nearest to the centres of `max_nsamples` clusters."""

    needs = "activations"

    def order(self, candidates: Candidates, count: int, random: Callable[[int], np.ndarray]) -> np.ndarray:
        windows, _ = candidates.standardised()
        points = projected(windows.reshape(len(windows), -1), random)
        clusters = max(1, len(points) // self.pool)
        owners, distances = cluster(points, clusters, random)
        sizes = np.bincount(owners, minlength=clusters)
        nearest = np.lexsort((distances, owners))  # of each cluster the nearest first
        first = np.ones(len(points), dtype=bool)
        first[1:] = owners[nearest][1:] != owners[nearest][:-1]
        leaders, others = nearest[first], nearest[~first]
        leaders = leaders[np.argsort(-sizes[owners[leaders]], kind="stable")]
        others = others[np.argsort(distances[others], kind="stable")]  # where windows repeat, clusters stay empty
        return np.concatenate([leaders, others])[:count]


def projected(points: np.ndarray, random: Callable[[int], np.ndarray], width: int = WIDTH) -> np.ndarray:
    """(windows, width), float64: distances kept on average, by random signs (Achlioptas 2003, thm 1.1).

    What is not wider than that stays as it is.
    """
    columns = points.shape[1]
    if columns <= width:
        return points
    bits = np.unpackbits(random(-(-columns * width // 64)).view(np.uint8))[: columns * width]
    signs = np.where(bits, 1.0, -1.0).reshape(columns, width)
    return points @ signs / np.sqrt(width)


def cluster(points: np.ndarray, clusters: int, random: Callable[[int], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(cluster of each point, its squared distance from the centre): the best of several runs of Lloyd's rule.

    Each begins with centres far apart (k-means++, Arthur and Vassilvitskii 2007).
    """
    found = [_run(points, _beginning(points, clusters, random)) for _ in range(RESTARTS)]
    return min(found, key=lambda run: round(float(run[1].sum()), 9))


def _beginning(points: np.ndarray, clusters: int, random: Callable[[int], np.ndarray]) -> np.ndarray:
    """(clusters, width): points, each drawn in proportion to its squared distance from those before it."""
    centres = np.empty((clusters, points.shape[1]))
    nearest = np.full(len(points), np.inf)
    for number, draw in enumerate((random(clusters) >> np.uint64(11)).astype(np.float64) * 2.0**-53):
        if number == 0 or not nearest.any():
            place = int(draw * len(points))
        else:
            shares = np.cumsum(nearest)
            place = min(int(np.searchsorted(shares, draw * shares[-1], side="right")), len(points) - 1)
        centres[number] = points[place]
        nearest = np.minimum(nearest, ((points - points[place]) ** 2).sum(axis=1))
    return centres


def _run(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's rule from these centres until no point changes its cluster; an empty cluster keeps its centre."""
    owners = np.full(len(points), -1)
    for _ in range(ROUNDS):
        squares = (centres**2).sum(axis=1) - 2 * points @ centres.T
        before, owners = owners, np.argmin(np.round(squares, 9), axis=1)
        if np.array_equal(before, owners):
            break
        for number in np.unique(owners):
            centres[number] = points[owners == number].mean(axis=0)
    return owners, ((points - centres[owners]) ** 2).sum(axis=1)
