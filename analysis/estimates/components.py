"""Where the spread of a score comes from: the source, the draw of the set, the test examples, and what is left.

The outcome of example e under calibration set k of source s follows the crossed design

    y_ske = μ + source_s + set_sk + example_e + (source × example)_se + residual_ske,

sets nested in sources, examples crossed with both. The residual is the set-by-example interaction together with the
repeat noise: they part only when the same set is run again (`repeat_table`). Components are estimated by the method of
moments on mean squares, which on balanced data is what REML gives as long as no component is negative; sources count
alike whatever their number of sets. A trial without samples of a task is left out and named; examples that some other
trial lacks are left out and counted.

The hard case is the interval. There are few sources and few sets, and resampling five things does not tell how far a
sixth may lie: a plain bootstrap over six sources covers the source component in 75 of 100 studies instead of 95. So
examples, of which there are many, are resampled, and the mean squares of sources and sets are drawn from their pivot
(mean square × degrees of freedom / χ²), as in generalised intervals (Weerahandi 1993; Burdick and Graybill 1992).
Coverage is checked by simulation in the tests.

A score is a mean over examples, or a mean over tasks of such means; a component's `variance` is what it adds to the
variance of that score, so components of a task with many examples and with few can be compared.

Words of this room: mathematics alone, numbers in and numbers out, for people who want to read an estimator before its
tables. An *outcome* is what one trial made of one test example (right or wrong, nats per token), *answered* an example
that has one; *harmonic* is the mean of 1 / sets over sources; a *pivot* is the distribution of an expectation
given its mean square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SOURCE, SET, EXAMPLE, SOURCE_EXAMPLE, RESIDUAL = (
    "source",
    "set within source",
    "test examples",
    "source × example",
    "set × example and noise",
)
COMPONENTS = (SOURCE, SET, EXAMPLE, SOURCE_EXAMPLE, RESIDUAL)
DRAWS = 1000
MANY = 1000  # examples from which the bootstrap of a mean is drawn from its normal limit


@dataclass(frozen=True)
class Estimate:
    """Variance components of one score. `variance` and `draws` have one entry per component, null as NaN.

    variance: what each component adds to the variance of the score; a negative moment estimate is kept as it is.
    draws:    float64 [draws, components], the distribution behind the intervals.
    sets:     calibration sets in all; `per_source` is the smallest and the largest number of a source.
    """

    variance: np.ndarray
    draws: np.ndarray
    sources: int
    sets: int
    per_source: tuple[int, int]
    examples: int
    dropped: int

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
    names = np.array([str(source) for source in sources])
    groups = [np.flatnonzero(names == name) for name in sorted(set(names))]
    counts = np.array([len(group) for group in groups])
    complete = [complete_examples(matrix) for matrix in matrices]
    dropped = sum(m.shape[1] - c.shape[1] for m, c in zip(matrices, complete, strict=True))
    if len(names) == 0 or min(matrix.shape[1] for matrix in complete) < 2:
        unknown = np.full((draws, len(COMPONENTS)), np.nan)
        per_source = (int(counts.min()), int(counts.max())) if len(counts) else (0, 0)
        return Estimate(unknown[0], unknown, len(groups), len(names), per_source, 0, dropped)
    weight = 1 / len(matrices)
    scores = weight * sum(matrix.mean(axis=1) for matrix in complete)
    freedom = int((counts - 1).sum())
    harmonic = float((1 / counts).mean())  # a source mean carries this share of the variance between its sets
    means = np.array([scores[group].mean() for group in groups])
    within = sum(((scores[g] - scores[g].mean()) ** 2).sum() for g in groups) / freedom if freedom else np.nan
    between = means.var(ddof=1) if len(groups) > 1 else np.nan

    estimate, spread = np.zeros(3), np.zeros((draws, 3))
    for matrix in complete:
        parts = _example_squares(matrix, groups, freedom)
        factor = weight**2 / max(matrix.shape[1] - 1, 1)
        mean = parts.mean(axis=1)
        estimate += factor * mean
        # Reflected on the log scale, as the pivots are: mean squares are skewed, and a low one looks too certain.
        resampled = _resampled_means(parts, rng, draws)
        spread += factor * np.divide(mean**2, resampled, out=np.zeros_like(resampled), where=resampled > 0)
    pivots = np.stack([_pivot(between, len(groups) - 1, rng, draws), _pivot(within, freedom, rng, draws)], axis=1)
    point = _solve(np.array([between, within]), estimate, harmonic, len(groups))
    cloud = _solve(pivots, spread, harmonic, len(groups))
    per_source = int(counts.min()), int(counts.max())
    return Estimate(point, cloud, len(groups), len(scores), per_source, sum(c.shape[1] for c in complete), dropped)


def complete_examples(matrix: np.ndarray) -> np.ndarray:
    """The examples that every trial has, float64 [trials, examples]."""
    return np.asarray(matrix[:, ~np.isnan(matrix).any(axis=0)], np.float64)


def _example_squares(matrix: np.ndarray, groups: Sequence[np.ndarray], freedom: int) -> np.ndarray:
    """Per example, float64 [3, examples]: squares between sets within sources, between sources, and of the example.

    Times examples / (examples - 1), their means over examples estimate residual, source × example + residual / sets,
    and example + the other two divided by the number of sources.
    """
    count = matrix.shape[1]
    centred = matrix - matrix.mean(axis=1, keepdims=True)
    sources = np.stack([centred[group].mean(axis=0) for group in groups])
    middle = sources.mean(axis=0)
    inner = sum(((centred[g] - m) ** 2).sum(axis=0) for g, m in zip(groups, sources, strict=True))
    residual = inner / freedom if freedom else np.full(count, np.nan)
    crossed = ((sources - middle) ** 2).sum(axis=0) / (len(groups) - 1) if len(groups) > 1 else np.full(count, np.nan)
    return np.stack([residual, crossed, middle**2])


def _resampled_means(parts: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Means over resampled examples, float64 [draws, 3], all three from the same resample."""
    count = parts.shape[1]
    if count > MANY:  # the limit of the bootstrap of a mean
        known = ~np.isnan(parts[:, 0])
        limit = np.full((draws, 3), np.nan)
        covariance = np.atleast_2d(np.cov(parts[known])) / count
        limit[:, known] = rng.multivariate_normal(parts[known].mean(axis=1), covariance, draws, method="svd")
        return limit
    weights = rng.multinomial(count, np.full(count, 1 / count), draws) / count
    return np.asarray(weights @ parts.T)


def _pivot(square: float, freedom: int, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Draws of the expectation of a mean square, given the mean square."""
    if freedom < 1:
        return np.full(draws, np.nan)
    return np.asarray(square * freedom / rng.chisquare(freedom, draws))


def _solve(squares: np.ndarray, parts: np.ndarray, harmonic: float, sources: int) -> np.ndarray:
    """Components [..., 5] from the squares of the scores (between, within) and of the examples."""
    between, within = squares[..., 0], squares[..., 1]
    residual, crossed, single = parts[..., 0], parts[..., 1], parts[..., 2]
    source_example = crossed - harmonic * residual
    example = single - crossed / sources if sources > 1 else single - harmonic * residual
    return np.stack(
        [between - harmonic * within - source_example, within - residual, example, source_example, residual], axis=-1
    )
