"""Variance components of one score from outcomes of trials on examples, whatever measure the outcomes are of.

The outcome of example e under calibration set k of source s follows the crossed design

    y_ske = μ + source_s + set_sk + example_e + (source × example)_se + residual_ske,

sets nested in sources, examples crossed with both. The residual is the set-by-example interaction together with the
repeat noise. Components are estimated by the method of moments on mean squares, which on balanced data is what REML
gives as long as no component is negative; sources weigh alike whatever their number of sets and however they scatter.

The hard case is the interval. There are few sources and few sets, and resampling six sources covers the source
component in 75 of 100 studies instead of 95. So each source's variance has its own pivot (Satterthwaite's degrees of
freedom for their mean), and the variance between sources the generalised one (`analysis.estimates.welch`). Examples are
many, but where most are answered alike by all trials the few that are not decide: their mean squares are drawn on the
log scale from Student's t whose degrees of freedom follow from how few decide, and where fewer than `FEWEST` would,
there is no interval. A set that is far off makes a variance that no other study would find again; then there is no
interval either, and `reasons` gives the spread of the others.

A component's variance is what it adds to the variance of a mean over examples, or of a mean over tasks of such means,
so components of a task with many examples and with few can be compared.

Words of this room: mathematics alone, numbers in and numbers out, for people who want to read an estimator before its
tables. An *outcome* is what one trial made of one test example (right or wrong, nats per token), *answered* an example
that has one; the *harmonic* share is the mean of 1 / sets over sources; a *pivot* is the distribution of an expectation
given its mean square; a *set that is far off* is one that no spread of the others explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.estimates.clusters import WORDS, two_groups
from analysis.estimates.spreads import far_words, typical
from analysis.estimates.welch import LOPSIDED, lopsided, set_variance, source_variance

SOURCE, SET, EXAMPLE, SOURCE_EXAMPLE, RESIDUAL = (
    "source",
    "set within source",
    "test examples",
    "source × example",
    "set × example and noise",
)
COMPONENTS = (SOURCE, SET, EXAMPLE, SOURCE_EXAMPLE, RESIDUAL)
DRAWS = 1000
# Where a mean square over examples varies over `HEAVY` times as much as that of normal draws, its variance is taken
# `RARE` times as large: one task of 400 questions near the ceiling, 360 studies, goes from .93 to .95 by it.
HEAVY, RARE = 2.0, 1.25
# The variance of the mean square of source x example is seen low where a task has few examples, and taken 1 + SMALL /
# examples times as large: 4 tasks x 20 questions near chance or the ceiling go from .91 and .90 to .96 and .93.
SMALL = 5.0
FEWEST = 40  # effective degrees of freedom of a mean square over examples below which it has no honest interval


@dataclass(frozen=True)
class Estimate:
    """Variance components of one score. `variance` and `draws` have one entry per component, null as NaN.

    variance: what each component adds to the variance of the score; a negative moment estimate is kept as it is.
    draws:    float64 [draws, components], the distribution behind the intervals; NaN where there is no honest one.
    sets:     calibration sets in all; `per_source` is the smallest and the largest number of a source.
    reasons:  why a component has no interval, empty where it has one.
    far:      how many sets of each source are far off, in the order of their names.
    """

    variance: np.ndarray
    draws: np.ndarray
    sources: int
    sets: int
    per_source: tuple[int, int]
    examples: int
    dropped: int
    reasons: tuple[str, ...] = ("",) * len(COMPONENTS)
    far: tuple[int, ...] = ()

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) of each variance, not below zero; NaN where the design cannot tell."""
        tail = (1 - level) / 2
        with np.errstate(invalid="ignore"):
            low, high = np.quantile(self.draws, [tail, 1 - tail], axis=0)
        return np.maximum(low, 0), np.maximum(high, 0)


def components(
    matrices: Sequence[np.ndarray], sources: Sequence[object], rng: np.random.Generator, draws: int = DRAWS
) -> Estimate:
    """Components of the mean over tasks of the mean outcome.

    matrices: one per task, [trials, examples], NaN where a trial has no outcome.
    sources:  the source of each trial. With one source the source component is NaN, with one set each the set is, and
              all are NaN when the trials do not share two examples of every task.
    """
    return components_of([summarise(matrix, sources) for matrix in matrices], sources, rng, draws)


@dataclass(frozen=True)
class TaskSums:
    """What the components need of the outcomes of one task; all of them have two complete examples at least.

    scores:  float64 [trials], means over the complete examples; squares: see `_example_squares`.
    dropped: examples that some trial lacks. Too few complete examples leave `squares` without a column.
    unlike:  complete examples whose outcome is not the same in all trials.
    """

    scores: np.ndarray
    squares: np.ndarray
    dropped: int
    unlike: int


def summarise(matrix: np.ndarray, sources: Sequence[object]) -> TaskSums:
    """The one pass over the outcomes of a task, [trials, examples] with NaN where a trial has none."""
    complete = complete_examples(matrix)
    dropped = matrix.shape[1] - complete.shape[1]
    if len(matrix) == 0 or complete.shape[1] < 2:
        return TaskSums(np.full(len(matrix), np.nan), np.zeros((3, 0)), dropped, 0)
    unlike = int((complete != complete[0]).any(axis=0).sum())
    return TaskSums(complete.mean(axis=1), _example_squares(complete, _groups(sources)[1]), dropped, unlike)


def _groups(sources: Sequence[object]) -> tuple[list[str], list[np.ndarray]]:
    """(the names of the sources, the trials of each)."""
    labels = np.array([str(source) for source in sources])
    names = sorted(set(labels))
    return names, [np.flatnonzero(labels == name) for name in names]


def components_of(
    tasks: Sequence[TaskSums], sources: Sequence[object], rng: np.random.Generator, draws: int = DRAWS
) -> Estimate:
    """`components` of tasks that were summarised already, over the same trials."""
    names, groups = _groups(sources)
    counts = np.array([len(group) for group in groups])
    dropped = sum(task.dropped for task in tasks)
    if len(sources) == 0 or min(task.squares.shape[1] for task in tasks) < 2:
        unknown = np.full((draws, len(COMPONENTS)), np.nan)
        per_source = (int(counts.min()), int(counts.max())) if len(counts) else (0, 0)
        return Estimate(unknown[0], unknown, len(groups), len(sources), per_source, 0, dropped)
    weight = 1 / len(tasks)
    scores = np.asarray(weight * sum(task.scores for task in tasks))
    values = [scores[group] for group in groups]
    harmonic = float((1 / counts).mean())  # a source mean carries this share of the variance between its sets
    parts = _example_parts([task.squares for task in tasks], weight, rng, draws)
    pivots, errors = _set_pivots(values, counts, rng, draws)
    estimate = _solve(values, errors, parts.mean, harmonic, len(groups))
    between = source_variance(
        np.array([group.mean() for group in values]), errors, (counts - 1).astype(float), rng, draws
    )
    cloud = _cloud(between, pivots, parts.draws, harmonic, len(groups))
    unlike = sum(task.unlike for task in tasks)
    reasons, far = _reasons(names, values, parts.freedom, unlike)
    for index, reason in enumerate(reasons):
        if reason:
            cloud[:, index] = np.nan
    per_source = int(counts.min()), int(counts.max())
    examples = sum(task.squares.shape[1] for task in tasks)
    return Estimate(estimate, cloud, len(groups), len(scores), per_source, examples, dropped, reasons, far)


def complete_examples(matrix: np.ndarray) -> np.ndarray:
    """The examples that every trial has, float64 [trials, examples]."""
    lacking = np.isnan(matrix).any(axis=0)
    return np.asarray(matrix[:, ~lacking] if lacking.any() else matrix, np.float64)


@dataclass(frozen=True)
class _Parts:
    """What the examples add: residual, source × example + residual / sets, example + the other two / sources.

    mean: [3]; draws: [draws, 3]; freedom: [3], effective degrees of freedom of each.
    """

    mean: np.ndarray
    draws: np.ndarray
    freedom: np.ndarray


def _example_parts(tasks: Sequence[np.ndarray], weight: float, rng: np.random.Generator, draws: int) -> _Parts:
    """Sums over tasks of the mean squares over examples, each as it adds to the variance of the score.

    tasks: the squares of each, [3, examples].
    """
    mean, covariance, examples = np.zeros(3), np.zeros((3, 3)), 0
    for squares in tasks:
        count = squares.shape[1]
        own = weight**2 / max(count - 1, 1) * squares.mean(axis=1)
        mean += own
        covariance += np.outer(own, own) * _relative_covariance(squares)
        examples += count
    # The sum over tasks is drawn, not each task: draws are skewed, and twenty of them add up to too much.
    scale = np.where(mean > 0, mean, 1.0)
    relative = np.nan_to_num(covariance / np.outer(scale, scale))
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = 2 / np.where(mean > 0, np.diag(relative), np.nan)
    return _Parts(mean, mean * _log_draws(relative, examples, rng, draws), freedom)


def _example_squares(matrix: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Per example, float64 [3, examples]: squares between sets within sources, between sources, and of the example.

    Times examples / (examples - 1), their means over examples estimate residual, source × example + residual / sets,
    and example + the other two divided by the number of sources.
    """
    count = matrix.shape[1]
    centred = matrix - matrix.mean(axis=1, keepdims=True)
    sources = np.stack([centred[group].mean(axis=0) for group in groups])
    middle = sources.mean(axis=0)
    several = [(centred[group], mean) for group, mean in zip(groups, sources, strict=True) if len(group) > 1]
    inner = sum(((part - mean) ** 2).sum(axis=0) / (len(part) - 1) for part, mean in several)
    residual = inner / len(several) if several else np.full(count, np.nan)
    crossed = ((sources - middle) ** 2).sum(axis=0) / (len(groups) - 1) if len(groups) > 1 else np.full(count, np.nan)
    return np.stack([residual, crossed, middle**2])


def _relative_covariance(squares: np.ndarray) -> np.ndarray:
    """Covariance [3, 3] of the means over examples, relative to the means; zero where a mean is zero or unknown."""
    count = squares.shape[1]
    mean = squares.mean(axis=1)
    known = ~np.isnan(mean) & (mean > 0)
    relative = np.zeros((3, 3))
    scaled = squares[known] / mean[known, None]
    relative[np.ix_(known, known)] = np.atleast_2d(np.cov(scaled)) / count if known.any() else 0.0
    small = np.array([1.0, (1 + SMALL / count) ** 0.5, 1.0])
    relative *= np.outer(small, small)
    if known[2]:  # the variance of a variance does not vanish where all squares are equal
        relative[2, 2] += 2 / (count * max(count - 1, 1))
        if relative[2, 2] > HEAVY * 2 / count:  # and is seen low where rare examples decide it
            relative[2, 2] *= RARE
    return relative


def _log_draws(relative: np.ndarray, count: int, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Draws of true over estimated mean squares, [draws, 3].

    On the log scale, as the pivots of normal theory are: mean squares are skewed, and a low one looks too certain.
    """
    variance = np.diag(relative)
    normal = rng.multivariate_normal(np.zeros(3), relative, draws, method="svd")
    deciding = np.clip(1 / np.maximum(variance, 1e-9), min(3.0, count - 1.0), count - 1.0)
    tails = np.sqrt(deciding / rng.chisquare(deciding, (draws, 3)))
    return np.asarray(np.exp(np.clip(normal * tails + variance / 2, -50, 50)))


def _set_pivots(
    values: Sequence[np.ndarray], counts: np.ndarray, rng: np.random.Generator, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """(draws of the variance of a set, [draws]; the variance that sets give to each source mean, [sources])."""
    within = set_variance(values)
    if not within.freedom:
        return np.full(draws, np.nan), np.full(len(values), np.nan)
    own = np.array([group.var(ddof=1) if len(group) > 1 else within.value for group in values])
    return within.drawn(rng, draws), own / counts


def _solve(
    values: Sequence[np.ndarray], errors: np.ndarray, parts: np.ndarray, harmonic: float, sources: int
) -> np.ndarray:
    """The moment estimates, [5]."""
    between = np.array([group.mean() for group in values]).var(ddof=1) if sources > 1 else np.nan
    within = set_variance(values).value
    residual, crossed, single = parts
    source_example = crossed - harmonic * residual
    example = single - crossed / sources if sources > 1 else single - harmonic * residual
    return np.array([between - errors.mean() - source_example, within - residual, example, source_example, residual])


def _cloud(between: np.ndarray, within: np.ndarray, parts: np.ndarray, harmonic: float, sources: int) -> np.ndarray:
    """The same of draws, [draws, 5]."""
    residual, crossed, single = parts.T
    source_example = crossed - harmonic * residual
    example = single - crossed / sources if sources > 1 else single - harmonic * residual
    return np.stack([between - source_example, within - residual, example, source_example, residual], axis=1)


def _reasons(
    names: Sequence[str], values: Sequence[np.ndarray], freedom: np.ndarray, unlike: int
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Why components have no interval."""
    reasons = [""] * len(COMPONENTS)
    kept, far = typical(values)
    if any(far):
        rest = set_variance(kept)
        told = f"no interval: {far_words(names, values, far)}"
        reasons[0] = reasons[1] = told
        if rest.freedom and rest.value > 0:
            low, high = (bound**0.5 / rest.value**0.5 for bound in rest.interval())
            share = (rest.value / max(set_variance(values).value, np.finfo(float).tiny)) ** 0.5
            ratio = f"{low:.2f} to {high:.2f}"
            reasons[1] = f"{told}; the SD of the other sets is {share:.2f} times this ({ratio} of that)"
    elif two_groups(values):
        reasons[0] = reasons[1] = f"no interval: {WORDS}"
    elif lopsided(values):
        reasons[1] = f"no interval: {LOPSIDED}"
    few = "no interval: too few examples are answered in different ways"
    residual, crossed, single = (np.isfinite(value) and value < FEWEST for value in freedom)
    # Degrees of freedom are estimated as well: they come out high where rare examples are not among those seen.
    single = single or (len(values) > 1 and unlike < FEWEST)
    for index, decided in ((2, single), (3, crossed), (4, residual)):
        if decided:
            reasons[index] = few
    return tuple(reasons), far
