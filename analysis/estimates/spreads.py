"""How far the sets of each source scatter, and where a typical set lies, when sources are unlike.

The value of set k of source s is centre_s + a draw with a variance of its own source. Variances are a sample as well,

    σ²_s ~ scaled inverse χ²(likeness, scale),

so that a source with two sets borrows from the others exactly as much as they are alike: `likeness` (degrees of
freedom) and `scale` are integrated over a grid, which makes every marginal a Student distribution. The hard case is a
set that is far off, a calibration that fails once in ten times. A mean and an SD follow it wherever it goes. So each
set belongs to the normal draws or, with a small probability, to a tail whose density falls as |distance|^-1.5; which of
the outermost sets of a source belong there is summed over (`_trimmings`). What is said of a centre and of a spread is
about the draws that are not far off, and `far` says which are.

No sampler has to converge: hyperparameters come from a grid, everything else from its exact conditional distribution.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.estimates.clusters import left_over, step_of

DRAWS = 2000
LIKENESS = np.array([1.0, 2.0, 4.0, 8.0, 24.0, 200.0])  # 1: SDs of 1 and 10; 200: one variance for all
# Prior of the likeness, even in the SD of the logarithms of variances, which falls as its root: sources are unlike if
# anything, unless their sets say otherwise. Even in the logarithm of the likeness, what is promised of unlike sources
# came true in .68 of cases instead of .83 (one of five sources with an SD of 5).
LOG_PRIOR = -np.log(LIKENESS) / 2
SCALES = np.exp(np.linspace(-7.0, 7.0, 41))  # times a robust guess at the variance
# Prior of the scale: even in the logarithm, but where no source has `FEW` sets even in the SD itself (Gelman 2006). Two
# sets each, that lie close together by luck, then promise less (six sources x 2 sets, answers of .93: .82 were right,
# .87 are now).
FEW = 3
FAR = (0.3, 8.0)  # Beta prior of a source's share of sets that are far off: most sources have none, some have several
SURE = 0.5  # beyond this probability a set is called far off


@dataclass(frozen=True)
class Spreads:
    """Draws from the joint distribution of centres and variances, one column per source.

    centre:   float64 [draws, sources], the mean of the sets that are not far off.
    count:    float64 [draws, sources], how many these are.
    variance: float64 [draws, sources], of one set around the centre of its source.
    scale:    float64 [draws], the variance that the sources' variances gather around.
    likeness: float64 [draws], how many sets' worth of knowledge of a source's variance the others bring.
    far:      per source, the probability of each of its sets to be far off, in the order given.
    """

    centre: np.ndarray
    count: np.ndarray
    variance: np.ndarray
    scale: np.ndarray
    likeness: np.ndarray
    far: tuple[np.ndarray, ...]

    @property
    def outlying(self) -> tuple[int, ...]:
        """How many sets of each source are far off."""
        return tuple(int((probability > SURE).sum()) for probability in self.far)


def seed_of(*arrays: np.ndarray) -> np.random.Generator:
    """A generator seeded by the data: the same numbers give the same draws, in any order of calls."""
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(a, np.float64).tobytes() for a in arrays)).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def has_spread(groups: Sequence[np.ndarray]) -> bool:
    """Whether two sets of some source differ: without that no variance can be estimated."""
    return any(len(group) > 1 and float(np.ptp(group)) > 0 for group in groups)


def repeats(groups: Sequence[np.ndarray], level: float = 0.95) -> float:
    """How often a new set repeats the value of its source's other sets, where all of them did: a lower bound.

    Clopper and Pearson's one-sided limit of a share of which nothing but successes was seen: the sets beyond the first
    of each source. Zero where no source has two sets.
    """
    seen = sum(len(group) - 1 for group in groups)
    return float((1 - level) ** (1 / seen)) if seen else 0.0


def spreads(groups: Sequence[np.ndarray], rng: np.random.Generator, draws: int = DRAWS) -> Spreads:
    """Centres and variances of sources from the values of their sets.

    groups: per source float64 [sets]. Raises ValueError where no two sets of a source differ: see `has_spread`.
    """
    if not has_spread(groups):
        raise ValueError("no two sets of a source differ, so no variance can be estimated")
    step = step_of(groups)
    guess = _guess(_distances(groups), step)
    trims = [_trimmings(np.asarray(group, float), step) for group in groups]
    cells = [_log_marginals(trim, guess) for trim in trims]  # each [likeness, scale, trimmings]
    total = LOG_PRIOR[:, None] + np.sum([special.logsumexp(cell, axis=2) for cell in cells], axis=0)
    if max(len(group) for group in groups) < FEW:
        total = total + np.log(SCALES) / 2
    density = np.exp(total - total.max()).ravel()
    place = rng.choice(density.size, draws, p=density / density.sum())
    likeness, scale = LIKENESS[place // len(SCALES)], guess * SCALES[place % len(SCALES)]
    centre, count, variance = (np.empty((draws, len(groups))) for _ in range(3))
    far = []
    for index, (trim, cell) in enumerate(zip(trims, cells, strict=True)):
        chosen = _choose(cell.reshape(density.size, -1), place, rng)
        centre[:, index], count[:, index] = trim.mean[chosen], trim.kept[chosen]
        shape = (likeness + trim.freedom[chosen]) / 2
        variance[:, index] = (likeness * scale + trim.squares[chosen]) / 2 / rng.standard_gamma(shape)
        share = np.bincount(chosen, minlength=len(trim.kept)) / draws
        far.append(share @ trim.removed)
    return Spreads(centre, count, variance, scale, likeness, tuple(far))


def _choose(log_weight: np.ndarray, place: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One column for each row `place` of log weights, in proportion to the weights."""
    chance = np.exp(log_weight - log_weight.max(axis=1, keepdims=True)).cumsum(axis=1)
    chosen = rng.random(len(place)) * chance[place, -1]
    return np.asarray((chance[place] < chosen[:, None]).sum(axis=1))


SCREEN = 4.0  # no set is far off that is closer to its source's median than this many robust SDs
# Nor is it where the shape of its own source does not show it, so that the source may as well scatter more than others:
# `_shaped` asks the share of normal draws, of any SD, that leave as little of their squares without the outermost sets.
SHAPE_LEAST, SHAPE_MOST = 0.01, 0.15


def far_off(groups: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Which sets of each source are far off, bool [sets] per source; none where no two sets differ.

    They are far from the others for the spread that sources have, and for that of their own source as well: a source
    that scatters five times as far as the others has no set that is far off.
    """
    none = tuple(np.zeros(len(group), bool) for group in groups)
    if not has_spread(groups) or max(len(group) for group in groups) < 3:
        return none
    step, distances = step_of(groups), _distances(groups)
    guess = _guess(distances, step)
    if max(float(own.max()) for own in distances) < SCREEN * guess**0.5:
        return none
    trims = [_trimmings(np.asarray(group, float), step) for group in groups]
    cells = [_log_marginals(trim, guess) for trim in trims]
    total = np.sum([special.logsumexp(cell, axis=2) for cell in cells], axis=0)
    density = np.exp(total - special.logsumexp(total))
    found = []
    for trim, cell in zip(trims, cells, strict=True):
        share = np.exp(cell - special.logsumexp(cell, axis=2, keepdims=True))
        found.append(np.einsum("ij,ijk,kn->n", density, share, trim.removed) > SURE)
    return tuple(gone & _shaped(group, int(gone.sum())) for group, gone in zip(groups, found, strict=True))


def _shaped(group: np.ndarray, count: int) -> bool:
    """Whether the shape of a source shows that `count` of its sets are far off, whatever its spread.

    The fewer sets, the less can be seen, so that more is believed: of five sets one at ten SDs passes in 99 of 100
    studies, of ten in all.
    """
    return left_over(group, count) < min(max(20 / len(group) ** 3, SHAPE_LEAST), SHAPE_MOST)


def typical(groups: Sequence[np.ndarray]) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """(the sets that are not far off, per source; how many are far off)."""
    far = far_off(groups)
    return [group[~gone] for group, gone in zip(groups, far, strict=True)], tuple(int(gone.sum()) for gone in far)


def far_words(names: Sequence[str], groups: Sequence[np.ndarray], far: Sequence[int]) -> str:
    """`one of 10 sets of books is far off`; empty where none is."""
    told = [
        f"{'one' if count == 1 else count} of {len(group)} sets of {name}"
        for name, group, count in zip(names, groups, far, strict=True)
        if count
    ]
    if not told:
        return ""
    many = sum(far) > 1
    listed = told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"
    return f"{listed} {'are' if many else 'is'} far off"


@dataclass(frozen=True)
class _Trimmings:
    """The ways to call some of the outermost sets of a source far off; one entry each, `removed` [ways, sets]."""

    mean: np.ndarray
    kept: np.ndarray
    squares: np.ndarray
    freedom: np.ndarray
    weight: np.ndarray  # log prior and log density of the sets that are far off, and of what the kept ones leave
    removed: np.ndarray


def _trimmings(values: np.ndarray, step: float) -> _Trimmings:
    """Less than half of the sets, from both ends."""
    order = np.argsort(values, kind="stable")
    ordered, n = values[order], len(values)
    most = min((n - 1) // 2, 4)
    rows: list[tuple[float, float, float, float, float, np.ndarray]] = []
    for below in range(most + 1):
        for above in range(most + 1 - below):
            kept = ordered[below : n - above]
            gone = np.concatenate([ordered[:below], ordered[n - above :]])
            distance = np.maximum(np.abs(gone - kept.mean()), np.finfo(float).tiny)
            prior = special.betaln(FAR[0] + len(gone), FAR[1] + len(kept)) - special.betaln(*FAR)
            tail = float(prior + np.log(np.sqrt(3) / 4) * len(gone) - 1.5 * np.log(distance).sum())
            weight = tail - (np.log(len(kept)) + (len(kept) - 1) * np.log(2 * np.pi)) / 2
            # A recorded value stands for all that round to it.
            squares = float(((kept - kept.mean()) ** 2).sum()) + (len(kept) - 1) * step**2 / 12
            flags = np.ones(n)
            flags[order[below : n - above]] = 0
            # The density of a far set, (√3/4) σ^½ |distance|^-1.5, leaves half a power of σ.
            rows.append((float(kept.mean()), len(kept), squares, len(kept) - 1 - len(gone) / 2, weight, flags))
    numbers = np.array([row[:5] for row in rows], float)
    mean, kept_, squares_, freedom, weight_ = numbers.T
    return _Trimmings(mean, kept_, squares_, freedom, weight_, np.stack([row[5] for row in rows]))


def _log_marginals(trim: _Trimmings, guess: float) -> np.ndarray:
    """Log density of a source's values with centre and variance integrated out, [likeness, scale, trimmings]."""
    a = LIKENESS[:, None, None]
    prior = a * guess * SCALES[None, :, None]
    shape = (a + trim.freedom) / 2
    parts = special.gammaln(shape) - special.gammaln(a / 2) + a / 2 * np.log(prior / 2)
    return np.asarray(trim.weight + parts - shape * np.log((prior + trim.squares) / 2))


def _distances(groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    """How far each set lies from the median of its source."""
    if len({len(group) for group in groups}) == 1:  # one call for all: tables ask thousands of times
        values = np.stack(groups)
        return list(np.abs(values - np.median(values, axis=1, keepdims=True)))
    return [np.abs(group - np.median(group)) for group in groups]


def _guess(distances: Sequence[np.ndarray], step: float) -> float:
    """A robust guess at the variance of a set, for the middle of the grid; `distances`: see `_distances`."""
    off = np.concatenate([own for own in distances if len(own) > 1])
    middle = float(np.median(off[off > 0]))
    return max((1.4826 * middle) ** 2, step**2 / 12)
