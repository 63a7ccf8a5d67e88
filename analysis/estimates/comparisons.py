"""Two samples of calibration sets, or of differences on the same sets: intervals, p values and who wins next time.

Every difference is positive where A is better. `test_variance` is what the choice of test examples adds to the variance
of a mean; where it is known, what is said of new test examples is said as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import stats


def welch(a: np.ndarray, b: np.ndarray, test_variance: float | None) -> dict[str, float]:
    """Two independent samples of sets; keys are missing where a spread is unknown.

    n_a, n_b, difference of the means, `low` to `high` (Welch's 95 % interval), p, and `a_wins_new_draw`, the
    probability that one new set of A beats one new set of B; with `test_variance` also the interval and the
    probability over new test examples.
    """
    row: dict[str, float] = {"n_a": len(a), "n_b": len(b), "difference": float(a.mean() - b.mean())}
    if len(a) < 2 or len(b) < 2:
        return row
    difference = float(a.mean() - b.mean())
    var_a, var_b = float(a.var(ddof=1)), float(b.var(ddof=1))
    if var_a + var_b == 0:
        return {**row, "low": difference, "high": difference, "a_wins_new_draw": _step(difference)}
    error = var_a / len(a) + var_b / len(b)
    freedom = error**2 / ((var_a / len(a)) ** 2 / (len(a) - 1) + (var_b / len(b)) ** 2 / (len(b) - 1))
    quantile = float(stats.t.ppf(0.975, freedom))
    half = quantile * error**0.5
    single = error + var_a + var_b  # one new set of each, and what is not known about the means
    row |= {
        "low": difference - half,
        "high": difference + half,
        "p": float(2 * stats.t.sf(abs(difference) / error**0.5, freedom)),
        "a_wins_new_draw": float(stats.t.cdf(difference / single**0.5, freedom)),
    }
    if test_variance is not None:
        wide = quantile * (error + 2 * test_variance) ** 0.5
        # Once for the examples that were seen and once for those to come.
        future = single + 4 * test_variance
        row |= {
            "low_new_test": difference - wide,
            "high_new_test": difference + wide,
            "a_wins_new_test": float(stats.t.cdf(difference / future**0.5, freedom)),
        }
    return row


def _step(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)


def paired(gap: np.ndarray, sources: Sequence[object], test_variance: float | None = None) -> dict[str, float | None]:
    """Differences of two methods on the same sets; `test_variance` is what the test examples add to their mean."""
    names = np.array([str(source) for source in sources])
    groups = [gap[names == name] for name in sorted(set(names))]
    mean = float(np.mean([group.mean() for group in groups]))
    wrong = int((gap * mean < 0).sum())
    low, high = wilson(wrong, len(gap))
    row: dict[str, float | None] = {
        "pairs": len(gap),
        "sources": len(groups),
        "difference": mean,
        "reversed": wrong / len(gap),
        "reversed_low": low,
        "reversed_high": high,
    }
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    if freedom and squares > 0:
        error = (squares / freedom * sum(1 / len(group) for group in groups)) ** 0.5 / len(groups)
        half = float(stats.t.ppf(0.975, freedom)) * error
        row |= {"low": mean - half, "high": mean + half, "p": float(2 * stats.t.sf(abs(mean) / error, freedom))}
    row["a_wins_new_draw"] = new_source_wins(groups)
    if test_variance is not None:  # once for the examples that were seen and once for those to come
        row["a_wins_new_test"] = new_source_wins(groups, 2 * test_variance)
    return row


def new_source_wins(groups: Sequence[np.ndarray], extra_variance: float = 0.0) -> float | None:
    """Probability that the value of one new set of a new source is positive; null for one source or without spread.

    groups: per source the values of its sets, of the model μ + source_s + set_sk with normal effects.

    With S sources of n_s sets, h the mean of 1 / n_s, B the variance of the source means and W the pooled variance of
    sets within sources, the new value differs from the mean of the source means with a variance whose estimate is
    (1 + 1/S) B + (1 - h) W: B already holds the share h of the variance within sources, so that nothing is subtracted
    and nothing can turn negative. B and W are drawn from their pivots (S - 1 and N - S degrees of freedom), as in the
    Behrens-Fisher distribution. That is exact for one set per source and errs on the side of too little certainty
    where there are two or three sources (docs/analysis.md has the table), where Satterthwaite's approximation states
    too much. `extra_variance` is added as known.
    """
    means = np.array([group.mean() for group in groups])
    counts = np.array([len(group) for group in groups])
    sources, freedom = len(groups), int((counts - 1).sum())
    if sources < 2:
        return None
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    between = (1 + 1 / sources) * float(means.var(ddof=1)) * _pivot(sources - 1, second=False)
    within = np.zeros(1)
    if freedom:
        within = (1 - float((1 / counts).mean())) * squares / freedom * _pivot(freedom, second=True)
    variance = between + within
    if not variance.any():
        return None
    return float(stats.norm.cdf(means.mean() / np.sqrt(variance + extra_variance)).mean())


@lru_cache(maxsize=256)
def _pivot(freedom: int, *, second: bool) -> np.ndarray:
    """Degrees of freedom over χ², at the first or the second coordinate of 1,024 points that fill the unit square.

    A lattice of the golden ratio instead of random draws: the same answer every time, and right to 0.001.
    """
    steps = np.arange(1024)
    places = (steps * (5**0.5 - 1) / 2 + 0.5 / 1024) % 1 if second else (steps + 0.5) / 1024
    return np.asarray(freedom / stats.chi2.ppf(places, freedom))


def wilson(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share."""
    interval = stats.binomtest(count, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p values that keep the chance of any false alarm in the family below alpha."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    corrected, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = largest
    return corrected
