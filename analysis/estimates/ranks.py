"""Orders and how sure they are: the probability of being best, agreement of several orders, a trend of variances.

The hard case is the winner's curse. The best of six means is best partly by luck, the more so the less sources differ;
taking each mean at its own error states 87 % where 60 % come true. Sources are therefore a sample as well: how much
they differ is estimated along with everything else, and each mean is drawn towards the others by as much as that
allows. A source with one set takes the pooled variance of the others; where no source has two sets nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special, stats

DRAWS = 20_000


def rank(cells: dict[str, np.ndarray], rng: np.random.Generator, draws: int = DRAWS) -> dict[str, dict[str, float]]:
    """Per source (values of its sets, larger is better): p_best, p_best_single_set, regret, regret_high.

    Nothing where no source has two sets, or where there is one source.
    """
    names = sorted(cells)
    counts = np.array([len(cells[name]) for name in names])
    freedom = int((counts - 1).sum())
    if freedom == 0 or len(names) < 2:
        return {name: {} for name in names}
    means = np.array([cells[name].mean() for name in names])
    squares = sum(float(((cells[name] - cells[name].mean()) ** 2).sum()) for name in names)
    truth, spread = _true_means(means, counts, squares, rng, draws)
    single = truth + spread[:, None] * rng.standard_normal(truth.shape)
    regret = truth.max(axis=1, keepdims=True) - truth
    best, best_single = _winners(truth), _winners(single)
    return {
        name: {
            "p_best": float(best[i]),
            "p_best_single_set": float(best_single[i]),
            "regret": float(regret[:, i].mean()),
            "regret_high": float(np.quantile(regret[:, i], 0.95)),
        }
        for i, name in enumerate(names)
    }


def _true_means(
    means: np.ndarray, counts: np.ndarray, squares: float, rng: np.random.Generator, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws of the sources' true means, float64 [draws, sources], and of the SD over sets within a source [draws].

    The posterior of the random-effects model with normal sources and sets, any number of sets per source, under the
    reference prior for the two mean squares (Box and Tiao 1973, chapter 5). `ratio` is the variance between sources
    over that within, on a grid that is even in the logarithm of the mean square between sources.
    """
    if squares == 0:  # sets do not differ, and nothing is uncertain
        return np.broadcast_to(means, (draws, len(means))), np.zeros(draws)
    harmonic = float((1 / counts).mean())
    step = 0.025
    grid = np.arange(0, 25, step)  # up to e^25: a mean square between sources that dwarfs any within
    weight = 1 / (1 / counts + harmonic * np.expm1(grid)[:, None])  # (grid, sources)
    centre = (weight * means).sum(axis=1) / weight.sum(axis=1)
    total = squares + (weight * (means - centre[:, None]) ** 2).sum(axis=1)
    known = int(counts.sum()) - 1
    density = (np.log(weight).sum(axis=1) - np.log(weight.sum(axis=1)) - known * np.log(total)) / 2
    density = np.exp(density - density.max())
    place = rng.choice(len(grid), draws, p=density / density.sum())
    ratio = harmonic * np.expm1(grid[place])[:, None]
    variance = (total[place] / rng.chisquare(known, draws))[:, None]
    middle = centre[place, None] + np.sqrt(variance / weight[place].sum(axis=1, keepdims=True)) * rng.standard_normal(
        (draws, 1)
    )
    own = ratio / (ratio + 1 / counts)  # how far a mean stands on its own sets
    truth = (
        own * means + (1 - own) * middle + np.sqrt(variance * own / counts) * rng.standard_normal((draws, len(means)))
    )
    return truth, np.sqrt(variance[:, 0])


def _winners(values: np.ndarray) -> np.ndarray:
    """Share of rows in which each column is the largest; ties are shared."""
    top = values == values.max(axis=1, keepdims=True)
    return np.asarray((top / top.sum(axis=1, keepdims=True)).mean(axis=0))


def kendall_w(values: np.ndarray, permutations: int = 2000) -> tuple[float, float, np.ndarray]:
    """(W, p, mean ranks) of [judges, items]; ties get mean ranks and their correction; p by permutation, seeded."""
    ranks = np.apply_along_axis(stats.rankdata, 1, values)
    judges, items = ranks.shape
    ties = sum(float((counts**3 - counts).sum()) for counts in (np.unique(r, return_counts=True)[1] for r in ranks))
    scale = judges**2 * (items**3 - items) - judges * ties
    if scale == 0:  # every judge ties all items: there is no order to agree on
        return float("nan"), float("nan"), ranks.mean(axis=0)
    deviation = ranks.sum(axis=0) - judges * (items + 1) / 2
    square = float((deviation**2).sum())
    shuffled = np.random.default_rng(0).permuted(np.broadcast_to(ranks, (permutations, judges, items)), axis=2)
    null = ((shuffled.sum(axis=1) - judges * (items + 1) / 2) ** 2).sum(axis=1)
    p = (1 + int((null >= square - 1e-9).sum())) / (1 + permutations)
    return 12 * square / scale, p, ranks.mean(axis=0)


def log_variance_trend(variances: np.ndarray, freedom: Sequence[int] | np.ndarray, x: np.ndarray) -> dict[str, float]:
    """Slope of log SD on x, as a factor per unit of x, from sample variances with their degrees of freedom."""
    half = np.asarray(freedom) / 2
    y = np.log(variances) - (special.digamma(half) - np.log(half))  # the mean of log χ²/df is not zero
    weight = 1 / special.polygamma(1, half)
    centre = x - np.average(x, weights=weight)
    slope = float((weight * centre * y).sum() / (weight * centre**2).sum())
    error = float((weight * centre**2).sum() ** -0.5)
    return {
        "factor_per_tenfold": float(np.exp(slope / 2)),
        "low": float(np.exp((slope - 1.959964 * error) / 2)),
        "high": float(np.exp((slope + 1.959964 * error) / 2)),
        "p": float(2 * stats.norm.sf(abs(slope) / error)),
    }
