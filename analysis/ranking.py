"""Which source is best, how sure is that, and does the answer carry over to other tasks and models?

A ranking of means is not an answer: with three sets per source the best mean is often luck. So the true means of the
sources get the distribution that their draws allow, and from it come the probability of being best and the expected
regret: how much worse than the best source one is, on average, with this choice.

The hard case is the winner's curse. The best of six means is best partly by luck, the more so the less sources differ;
taking each mean at its own error states 87 % where 60 % come true. Sources are therefore a sample as well: how much
they differ is estimated along with everything else, and each mean is drawn towards the others by as much as that
allows.
A source with one set takes the pooled variance of the others; where no source has two sets nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import polars as pl
from scipy import special, stats

from analysis.frames import Study
from analysis.measures import MEAN, MEASURES
from analysis.tables import range_table

DRAWS = 20_000
RANK_SCHEMA = {
    "model": pl.String,
    "parameters": pl.Int64,
    "method_label": pl.String,
    "task": pl.String,
    "source": pl.String,
    "n": pl.Int64,
    **dict.fromkeys(["mean", "p_best", "p_best_single_set", "regret", "regret_high"], pl.Float64),
}


@lru_cache(maxsize=16)
def rank_table(study: Study, measure: str = "accuracy", task: str = MEAN, seed: int = 0) -> pl.DataFrame:
    """Per (model, method, source): probability of being the best source, and expected regret of choosing it.

    `p_best` is about the mean over all draws from a source, `p_best_single_set` about one new set of each. `regret` is
    in the measure's unit, `regret_high` its 95 % quantile. The test examples are these; see `analysis.compare` for new
    ones.
    """
    rows = study.calibrated.filter(pl.col("measure") == measure, pl.col("task") == task).drop_nulls("value")
    sign = 1.0 if MEASURES[measure].higher_is_better else -1.0
    found: list[dict[str, object]] = []
    groups = rows.group_by("model", "parameters", "method_label", maintain_order=True)
    for number, ((model, parameters, label), part) in enumerate(groups):
        cells = {str(s): sign * p["value"].to_numpy() for (s,), p in part.group_by("source", maintain_order=True)}
        ranked = rank(cells, np.random.default_rng([seed, number]))
        for source, values in ranked.items():
            context = {"model": model, "parameters": parameters, "method_label": label, "task": task, "source": source}
            found.append({**context, "n": len(cells[source]), "mean": sign * float(cells[source].mean()), **values})
    frame = pl.DataFrame(found, RANK_SCHEMA)
    return frame.sort(
        "parameters", "model", "method_label", "p_best", "source", descending=[False, False, False, True, False]
    )


def rank(cells: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, dict[str, float]]:
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
    truth, spread = _true_means(means, counts, squares, rng)
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
    means: np.ndarray, counts: np.ndarray, squares: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws of the sources' true means, float64 [DRAWS, sources], and of the SD over sets within a source [DRAWS].

    The posterior of the random-effects model with normal sources and sets, any number of sets per source, under the
    reference prior for the two mean squares (Box and Tiao 1973, chapter 5). `ratio` is the variance between sources
    over that within, on a grid that is even in the logarithm of the mean square between sources.
    """
    if squares == 0:  # sets do not differ, and nothing is uncertain
        return np.broadcast_to(means, (DRAWS, len(means))), np.zeros(DRAWS)
    harmonic = float((1 / counts).mean())
    step = 0.025
    grid = np.arange(0, 25, step)  # up to e^25: a mean square between sources that dwarfs any within
    weight = 1 / (1 / counts + harmonic * np.expm1(grid)[:, None])  # (grid, sources)
    centre = (weight * means).sum(axis=1) / weight.sum(axis=1)
    total = squares + (weight * (means - centre[:, None]) ** 2).sum(axis=1)
    known = int(counts.sum()) - 1
    density = (np.log(weight).sum(axis=1) - np.log(weight.sum(axis=1)) - known * np.log(total)) / 2
    density = np.exp(density - density.max())
    place = rng.choice(len(grid), DRAWS, p=density / density.sum())
    ratio = harmonic * np.expm1(grid[place])[:, None]
    variance = (total[place] / rng.chisquare(known, DRAWS))[:, None]
    middle = centre[place, None] + np.sqrt(variance / weight[place].sum(axis=1, keepdims=True)) * _normal(rng, 1)
    own = ratio / (ratio + 1 / counts)  # how far a mean stands on its own sets
    truth = own * means + (1 - own) * middle + np.sqrt(variance * own / counts) * _normal(rng, len(means))
    return truth, np.sqrt(variance[:, 0])


def _normal(rng: np.random.Generator, columns: int) -> np.ndarray:
    return rng.standard_normal((DRAWS, columns))


def _winners(values: np.ndarray) -> np.ndarray:
    """Share of rows in which each column is the largest; ties are shared."""
    top = values == values.max(axis=1, keepdims=True)
    return np.asarray((top / top.sum(axis=1, keepdims=True)).mean(axis=0))


AGREEMENT_SCHEMA = {
    "over": pl.String,
    "model": pl.String,
    "method_label": pl.String,
    **dict.fromkeys(["judges", "sources"], pl.Int64),
    **dict.fromkeys(["w", "p"], pl.Float64),
    "order": pl.String,
}


def agreement_table(study: Study, measure: str = "accuracy") -> pl.DataFrame:
    """Kendall's W of the order of sources: over tasks within a (model, method), and over models within a method.

    W is 1 when every task (or model) orders the sources alike and 0 when the orders have nothing in common; `p` is for
    the hypothesis of no agreement. `order` lists the sources by their mean rank, best first. Where every judge ties all
    sources there is no order, and W and p are null.
    """
    rows = study.calibrated.filter(pl.col("measure") == measure).drop_nulls("value")
    means = rows.group_by("model", "method_label", "task", "source", maintain_order=True).agg(pl.col("value").mean())
    found: list[dict[str, object]] = []
    tasks = means.filter(pl.col("task") != MEAN)
    for (model, label), part in tasks.group_by("model", "method_label", maintain_order=True):
        found += _agreement(part, "task", measure, {"over": "tasks", "model": model, "method_label": label})
    overall = means.filter(pl.col("task") == MEAN)
    for (label,), part in overall.group_by("method_label", maintain_order=True):
        found += _agreement(part, "model", measure, {"over": "models", "model": None, "method_label": label})
    return pl.DataFrame(found, AGREEMENT_SCHEMA).sort("over", "model", "method_label")


def _agreement(part: pl.DataFrame, judge: str, measure: str, context: dict[str, object]) -> list[dict[str, object]]:
    wide = part.pivot(on="source", index=judge, values="value", sort_columns=True).drop_nulls()
    names = wide.columns[1:]
    if wide.height < 2 or len(names) < 2:
        return []
    values = wide.select(names).to_numpy() * (-1 if MEASURES[measure].higher_is_better else 1)
    w, p, ranks = kendall_w(values)
    if np.isnan(w):
        return [{**context, "judges": wide.height, "sources": len(names), "order": " = ".join(names)}]
    order = " > ".join(names[i] for i in np.argsort(ranks, kind="stable"))
    return [{**context, "judges": wide.height, "sources": len(names), "w": w, "p": p, "order": order}]


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


TREND_SCHEMA = {
    "method_label": pl.String,
    "models": pl.Int64,
    **dict.fromkeys(["factor_per_tenfold", "low", "high", "p"], pl.Float64),
}


def sensitivity_table(study: Study, measure: str = "accuracy", task: str = MEAN) -> pl.DataFrame:
    """SD over the draws of one source per (model, method), with the 95 % interval of an SD (χ²)."""
    table = range_table(study, measure, task).drop_nulls("sd_within")
    freedom = pl.col("n") - pl.col("sources")
    degrees = table.select(freedom).to_series().to_numpy()
    low, high = ((degrees / stats.chi2.ppf(quantile, degrees)) ** 0.5 for quantile in (0.975, 0.025))
    columns = ["model", "parameters", "method_label", "n", "sources", "sd_within", "low", "high"]
    return (
        table.with_columns(
            (pl.col("sd_within") * pl.Series(low, dtype=pl.Float64)).alias("low"),
            (pl.col("sd_within") * pl.Series(high, dtype=pl.Float64)).alias("high"),
        )
        .select(columns)
        .sort("parameters", "model", "method_label")
    )


def trend_table(study: Study, measure: str = "accuracy", task: str = MEAN) -> pl.DataFrame:
    """Does the sensitivity to draws change with model size? One row per method with two models or more.

    `factor_per_tenfold` is what ten times the parameters do to the SD over draws (0.5: halved), with its 95 % interval
    and the p value of no change: weighted regression of log SD² on log parameters; log of a χ² variable has a known
    mean and variance, so that even two models have an interval, a wide one.
    """
    found: list[dict[str, object]] = []
    table = sensitivity_table(study, measure, task).filter(pl.col("sd_within") > 0)
    for (label,), part in table.group_by("method_label", maintain_order=True):
        if part["parameters"].n_unique() > 1:
            freedom = (part["n"] - part["sources"]).to_numpy()
            trend = log_variance_trend(
                part["sd_within"].to_numpy() ** 2, freedom, np.log10(part["parameters"].to_numpy())
            )
            found.append({"method_label": label, "models": part.height, **trend})
    return pl.DataFrame(found, TREND_SCHEMA).sort("method_label")


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
