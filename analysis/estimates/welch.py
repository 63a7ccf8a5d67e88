"""Means and variances over sources that scatter unlike: every source has a variance of its own.

A weighted sum of source means has a standard error of Σ weight² s²_s / n_s with Welch's and Satterthwaite's degrees of
freedom (Satterthwaite 1946; Welch 1947), and the mean of the sources' variances a χ² interval with Satterthwaite's. A
source with one set has no variance; it gets the mean of the others', and no degrees of freedom of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from analysis.estimates.clusters import step_of

LOPSIDED = "one of two sources has two sets only"
ALIKE = 0.5  # Bartlett's p above which variances count as alike
# Where they are not, a source whose variance is large and estimated low by luck counts for less than it should, and the
# upper limit comes out too low. Its degrees of freedom lose up to `CAUTION`: nothing where the largest part makes up
# `LARGE` of the sum, all of it from `WHOLE` on, and less of a part with more than four degrees of freedom of its own.
CAUTION, LARGE, WHOLE = 0.4, 0.3, 0.4
# Few sets cannot show that their draws have heavier tails than normal ones: the upper limit allows for a variance of a
# variance that is `USUAL` times theirs, and for `HEAVY` times what the fourth powers show beyond. All of these were
# chosen so that 95 % intervals hold in 92 to 98 of 100 studies of the first table of docs/coverage.md.
USUAL, HEAVY = 1.1, 5.0


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, standard error, degrees of freedom and p value of zero; None where unknown."""

    value: float
    low: float | None = None
    high: float | None = None
    error: float | None = None
    freedom: float | None = None
    p: float | None = None


def contrast(groups: Sequence[np.ndarray], weights: Sequence[float] | np.ndarray, extra: float = 0.0) -> Interval:
    """Σ weight × mean of each source, with its 95 % interval over draws.

    groups: per source float64 [sets]. `extra` is variance of the sum that sets do not show, taken as known. Without two
    sets of a source that differ there is no interval. A source whose recorded values are equal, where those of others
    move in steps, has the variance of one step's rounding.
    """
    w = np.asarray(weights, float)
    counts = np.array([len(group) for group in groups])
    value = float(sum(weight * group.mean() for weight, group in zip(w, groups, strict=True)))
    variance = _variances(groups)
    if variance is None:
        return Interval(value)
    parts = w**2 * variance / counts
    error = float(parts.sum())
    if error == 0:
        return Interval(value)
    counted = w != 0 if (counts[w != 0] > 1).all() else np.ones(len(w), bool)  # all lend to those with one set
    freedom = _freedom(parts[counted], counts[counted], variance[counted])
    total = (error + extra) ** 0.5
    half = float(stats.t.ppf(0.975, freedom)) * total
    p = float(2 * stats.t.sf(abs(value) / total, freedom))
    return Interval(value, value - half, value + half, total, freedom, p)


def _variances(groups: Sequence[np.ndarray]) -> np.ndarray | None:
    """The variance of each source's sets, [sources]; None where no source has two sets that differ."""
    own = np.array([float(group.var(ddof=1)) if len(group) > 1 else np.nan for group in groups])
    if not (own > 0).any():
        return None
    flat = own == 0
    if flat.any():
        own[flat] = step_of(groups) ** 2 / 12
    return np.where(np.isnan(own), np.nanmean(own), own)


def _freedom(parts: np.ndarray, counts: np.ndarray, variance: np.ndarray) -> float:
    """Degrees of freedom of a sum of variances: a part for each source, with so many sets of such a variance.

    They are Welch's and Satterthwaite's but for two cases. Of more than two sources whose variances are alike, s⁴ is
    replaced by s⁴ df / (df + 1), as these take the luck of the estimates for differences (four sources x 2 sets: .981
    held, now .971). Of two sources with unlike numbers of sets they are drawn towards the mean of 1 / df, weighted as
    the parts are: Welch's are high where the few sets look calm by luck (2 sets against 10: .88 to .91 held for equal
    SDs and for ones of 5:1, now .92 to .94). What a source with one set borrows is the mean of the others' estimates,
    so it adds to their parts before these are squared (2 sets and 1: .87 of means held when it counted as one more).
    """
    several = counts > 1
    lent, own_variance = float(parts[~several].sum()), variance[several]
    own = parts[several] + lent * own_variance / own_variance.sum()
    error, freedom = float(own.sum()), counts[several] - 1.0
    plain = float(error**2 / (own**2 / freedom).sum())
    if lent or len(own) < 2:
        return plain
    if len(own) == 2:
        unlike = 1 - float(counts.min() / counts.max()) ** 2
        return float(plain ** (1 - unlike) * (error / float((own / freedom).sum())) ** unlike)
    if _alike(own * counts, freedom) < ALIKE:
        return plain
    return float(min(error**2 / float((own**2 / (freedom + 1)).sum()), freedom.sum()))


@dataclass(frozen=True)
class SetVariance:
    """The mean over sources of the variance of a set; NaN without degrees of freedom where no source has two sets.

    freedom:  degrees of freedom of its lower limit, Satterthwaite's.
    cautious: those of its upper limit, fewer where a large variance may be among those that look small.
    """

    value: float
    freedom: float
    cautious: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """χ² limits of the variance."""
        tail = (1 - level) / 2
        low = self.value * self.freedom / float(stats.chi2.ppf(1 - tail, self.freedom))
        return low, self.value * self.cautious / float(stats.chi2.ppf(tail, self.cautious))

    def drawn(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        """Draws of the variance, float64 [draws], whose quantiles are the limits of `interval` for any level."""
        place = rng.random(draws)
        freedom = np.where(place < 0.5, self.freedom, self.cautious)
        return np.asarray(self.value * freedom / (2 * special.gammainccinv(freedom / 2, place)))


def set_variance(groups: Sequence[np.ndarray], weights: Sequence[float] | np.ndarray | None = None) -> SetVariance:
    """The mean over sources of the variance of a set; sources with one set are left out.

    `weights`: of the variances instead, one per source, for another sum than their mean. Satterthwaite's degrees of
    freedom are too few because they take the luck of the estimates for differences: where variances are alike s⁴ is
    replaced by its unbiased estimate, s⁴ df / (df + 2), and for the lower limit, which a large variance seen low does
    not touch, by half of that where they are not. The upper limit is `_careful` there.
    """
    several = [index for index, group in enumerate(groups) if len(group) > 1]
    if not several:
        return SetVariance(float("nan"), 0.0, 0.0)
    w = np.full(len(groups), 1 / len(several)) if weights is None else np.asarray(weights, float)
    own = np.array([groups[index].var(ddof=1) for index in several])
    freedom = np.array([len(groups[index]) - 1.0 for index in several])
    parts = w[several] * own
    total = float(parts.sum())
    if total == 0:
        return SetVariance(0.0, float(freedom.sum()), float(freedom.sum()))
    tails = _tails([groups[index] for index in several])
    if _alike(own, freedom) >= ALIKE:
        corrected = min(float(total**2 / (parts**2 / (freedom + 2)).sum()), float(freedom.sum()))
        return SetVariance(total, corrected, corrected / tails)
    plain = float(total**2 / (parts**2 / freedom).sum())
    least = min(float(freedom[parts.argmax()]), plain)  # a sum is known no worse than its largest part
    cautious = max(_careful(parts / total, freedom) * plain, least) / tails
    return SetVariance(total, max(float(total**2 / (parts**2 / (freedom + 1)).sum()), cautious), cautious)


def lopsided(groups: Sequence[np.ndarray]) -> bool:
    """Whether one of two sources has two sets and the other more: then `set_variance` has no honest limits.

    Where the two sets scatter more than the many, half of the sum rests on one degree of freedom, and is low by luck
    unseen (SD 5 and 1, 2 and 10 sets: .77 held).
    """
    counts = sorted(len(group) for group in groups if len(group) > 1)
    return len(counts) == 2 and counts[0] == 2 < counts[1]


def _careful(share: np.ndarray, freedom: np.ndarray) -> float:
    """What is left of Satterthwaite's degrees of freedom; share: of each source in the sum."""
    largest = int(share.argmax())
    beyond = min(max(float(share[largest]) - LARGE, 0.0) / (WHOLE - LARGE), 1.0)
    return 1 - CAUTION * beyond * min(4 / float(freedom[largest]), 1.0) ** 2


def _tails(groups: Sequence[np.ndarray]) -> float:
    """By what the variance of a variance exceeds that of normal draws, from their fourth powers; at least `USUAL`.

    Each source is measured in its own SD. Of few sets no fourth power can be large, so that of what is seen beyond
    normal draws `HEAVY` times as much is believed.
    """
    seen = expected = 0.0
    for group in groups:
        n, sd = len(group), float(group.std(ddof=1))
        if n > 2 and sd > 0:
            seen += float((((group - group.mean()) / sd) ** 4).sum())
            expected += 3 * (n - 1) ** 3 / (n * (n + 1))  # of normal draws
    return USUAL + max(0.0, HEAVY * (seen / expected - 1)) if expected else USUAL


def _alike(variance: np.ndarray, freedom: np.ndarray) -> float:
    """Bartlett's p of equal variances; 0 where one of them is zero and 1 for a single one."""
    if len(variance) < 2:
        return 1.0
    if (variance == 0).any():
        return 0.0
    total = freedom.sum()
    pooled = float((freedom * variance).sum() / total)
    statistic = total * np.log(pooled) - (freedom * np.log(variance)).sum()
    scale = 1 + ((1 / freedom).sum() - 1 / total) / (3 * (len(variance) - 1))
    return float(stats.chi2.sf(statistic / scale, len(variance) - 1))


def source_variance(
    means: np.ndarray, errors: np.ndarray, freedom: np.ndarray, rng: np.random.Generator, draws: int
) -> np.ndarray:
    """Draws of the variance between true source means, float64 [draws]: its generalised pivotal quantity.

    means, errors: source means and their variances by sets, [sources]; freedom: the degrees of freedom of each error,
    whose pivots are drawn. The value sought makes the weighted squares of the means equal to a draw of χ² (Iyer, Wang
    and Mathew 2004), zero where none does. NaN for one source, and where errors are unknown.
    """
    sources = len(means)
    if sources < 2 or np.isnan(errors).any():
        return np.full(draws, np.nan)
    squares = float(((means - means.mean()) ** 2).sum())
    if squares == 0:
        return np.zeros(draws)
    # A source whose sets do not differ has no error, but no weight without end either.
    errors = np.maximum(errors, 1e-12 * squares)
    error = errors * _error_pivots(errors, freedom, rng, draws)
    wanted = rng.chisquare(sources - 1, draws)
    error = np.ascontiguousarray(error.T)  # sums over few sources are fast down the columns
    means = (means - means[errors.argmin()])[:, None]  # the weighted mean is near it: nothing cancels
    found = np.zeros(draws)
    some = np.flatnonzero(_squares(means, error)[0] > wanted)
    found[some] = _solved(means, error[:, some], wanted[some], squares)
    return found


def _error_pivots(errors: np.ndarray, freedom: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Draws of true over estimated errors of source means, [draws, sources]; 1 without degrees of freedom.

    Of two sources only the sum of their errors counts, which Welch's degrees of freedom describe better than two
    pivots: with these the lower limit of two equal sources was above zero in .013 of studies instead of .025.
    """
    if len(errors) == 2 and freedom.any():
        shared = _freedom(errors, freedom + 1, errors * (freedom + 1))
        return np.repeat(shared / rng.chisquare(shared, (draws, 1)), 2, axis=1)
    known = np.maximum(freedom, 1)
    return np.where(freedom > 0, known / rng.chisquare(known, (draws, len(errors))), 1.0)


def _solved(means: np.ndarray, error: np.ndarray, wanted: np.ndarray, squares: float) -> np.ndarray:
    """The variance [draws] that, added to each error, makes the weighted squares what is wanted.

    One over the weighted squares is the least of quadratic forms that are linear in the variance, and so concave in it:
    Newton's steps come from below and never pass the solution. Where all errors are alike the first one is exact.
    """
    found = np.maximum(squares / wanted - error.max(axis=0), 0)  # not above it: weights are those of the largest error
    for _ in range(40):
        value, slope = _squares(means, error + found)
        step = value * (value / wanted - 1) / slope
        found = np.maximum(found + step, 0)
        if (np.abs(step) <= 1e-9 * found).all():
            break
    return np.asarray(found)


def _squares(means: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Σ over sources of (mean - weighted mean)² / variance, and by how much it falls with the variance, each [draws].

    means: [sources, 1]; variance: [sources, draws].
    """
    weight = 1 / variance
    centre = (weight * means).sum(axis=0) / weight.sum(axis=0)
    part = weight * (means - centre)  # (sources, draws)
    return (part * (means - centre)).sum(axis=0), (part**2).sum(axis=0)
