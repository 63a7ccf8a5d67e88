"""Two samples of calibration sets, or of differences on the same sets: intervals, p values and who wins next time.

Every difference is positive where A is better. `test_variance` is what the choice of test examples adds to the variance
of a mean; where it is known, what is said of new test examples is said as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import stats

from analysis.estimates.spreads import typical
from analysis.estimates.welch import Interval, contrast, set_variance


def welch(a: np.ndarray, b: np.ndarray, test_variance: float | None) -> dict[str, float]:
    """Two independent samples of sets; keys are missing where a spread is unknown or zero.

    n_a, n_b, difference of the means, `low` to `high` (Welch's 95 % interval) and p; with `test_variance` also the
    interval over new test examples. It is for a pair that was chosen before its values were seen: of one that was
    picked because it leads, ask the posterior (`analysis.estimates.posterior`).
    """
    row: dict[str, float] = {"n_a": len(a), "n_b": len(b), "difference": float(a.mean() - b.mean())}
    if len(a) < 2 or len(b) < 2:
        return row
    found = contrast([a, b], [1, -1])
    if found.low is None or found.high is None or found.p is None:
        return row
    row |= {"low": found.low, "high": found.high, "p": found.p}
    if test_variance is not None:
        wide = contrast([a, b], [1, -1], 2 * test_variance)
        if wide.low is not None and wide.high is not None:
            row |= {"low_new_test": wide.low, "high_new_test": wide.high}
    return row


def paired(gap: np.ndarray, sources: Sequence[object], test_variance: float | None = None) -> dict[str, float | None]:
    """Differences of two methods on the same sets; `test_variance` is what the test examples add to their mean.

    `low` to `high` and p are for these examples, `low_new_test` to `high_new_test` for new ones. Where one method is
    far off on some sets (`far_off` counts them) the difference is that of the other sets and none of these is given:
    with such sets a mean has no honest interval, and what is left after taking them out looks more certain than it is.
    """
    names = np.array([str(source) for source in sources])
    groups = [gap[names == name] for name in sorted(set(names))]
    weights = np.full(len(groups), 1 / len(groups))
    kept, far = typical(groups)
    found = contrast(kept, weights)
    if any(far):
        found = Interval(found.value)
    wrong = int((gap * found.value < 0).sum())
    low, high = wilson(wrong, len(gap))
    row: dict[str, float | None] = {
        "pairs": len(gap),
        "sources": len(groups),
        "far_off": sum(far),
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "reversed": wrong / len(gap),
        "reversed_low": low,
        "reversed_high": high,
        "a_wins_new_draw": new_source_wins(groups),
    }
    if test_variance is not None:  # once for the examples that were seen and once for those to come
        wide = Interval(found.value) if any(far) else contrast(groups, weights, test_variance)
        row |= {"low_new_test": wide.low, "high_new_test": wide.high}
        row["a_wins_new_test"] = new_source_wins(groups, 2 * test_variance)
    return row


def new_source_wins(groups: Sequence[np.ndarray], extra_variance: float = 0.0) -> float | None:
    """Probability that the value of one new set of a new source is positive; null for one source or without spread.

    groups: per source the values of its sets, of the model μ + source_s + set_sk with normal effects.

    With S sources of n_s sets whose variance is s²_s, B the variance of the source means and W the mean over sources of
    (1 - 1/n_s) s²_s, the new value differs from the mean of the source means with a variance whose estimate is
    (1 + 1/S) B + W: B already holds the share 1/n_s of the variance within a source, so that nothing is subtracted
    and nothing can turn negative. B and W are drawn from their pivots (S - 1 and Satterthwaite's degrees of freedom),
    as in the Behrens-Fisher distribution. That is exact for one set per source and errs on the side of too little
    certainty where there are two or three sources (docs/analysis.md has the table), where Satterthwaite's approximation
    states too much. `extra_variance` is added as known.
    """
    means = np.array([group.mean() for group in groups])
    counts = np.array([len(group) for group in groups])
    sources = len(groups)
    if sources < 2:
        return None
    inside = set_variance(groups, (1 - 1 / counts) / sources)
    between = (1 + 1 / sources) * float(means.var(ddof=1)) * _pivot(sources - 1, second=False)
    within = np.zeros(1)
    if inside.freedom:
        within = inside.value * _pivot(round(inside.cautious, 1), second=True)
    variance = between + within
    if not variance.any():
        return None
    return float(stats.norm.cdf(means.mean() / np.sqrt(variance + extra_variance)).mean())


@lru_cache(maxsize=256)
def _pivot(freedom: float, *, second: bool) -> np.ndarray:
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
