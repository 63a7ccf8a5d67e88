"""What the analysis states about the simulated studies, held against what is true: one row of a table per design."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.compare import holm
from analysis.estimates.agreement import agreement
from analysis.estimates.clusters import two_groups
from analysis.estimates.components import components
from analysis.estimates.correlations import correlation
from analysis.estimates.equivalence import UNCLEAR, answer
from analysis.estimates.posterior import posterior
from analysis.estimates.settle import settling
from analysis.estimates.spreads import has_spread, typical
from analysis.estimates.trend import log_variance_trend
from analysis.estimates.welch import contrast, lopsided, set_variance, source_variance
from benchmarks.designs import others, sets

MATTERS = 0.5  # SDs of a usual draw
CONTINUED = 4  # times that a study is continued by the sets that it asked for
LOOKED_AT = 40  # studies in all for each case that is wanted
FEWEST = 50  # intervals below which no coverage is stated: its standard error would be above .03
DRAWS = 600  # of a posterior: calibration needs no more
Row = dict[str, str | float]


@dataclass(frozen=True)
class Check:
    """A table of the page: its designs and the function that makes a row from a design, a generator and a number.

    `fewer`: this table takes the number of studies divided by it, because one of its studies costs as much more.
    """

    title: str
    text: str
    designs: Sequence[object]
    row: Callable[..., Row]
    fewer: int = 1


def share(values: Sequence[bool]) -> float:
    """Share of intervals that hold; NaN of fewer than `FEWEST`."""
    return float(np.mean(values)) if len(values) >= FEWEST else float("nan")


def against(stated: Sequence[float], true: Sequence[float]) -> str:
    """`stated / true`."""
    return f"{np.mean(stated):.2f} / {np.mean(true):.2f}" if len(stated) else "–"


def intervals_of_sets(d: sets.SetDesign, rng: np.random.Generator, studies: int) -> Row:
    """Coverage of 95 % intervals, and how often equal sources are told apart (p below .05, Holm)."""
    pair: list[bool] = []
    spread: list[bool] = []
    between: list[bool] = []
    alarms: list[bool] = []
    count = len(d.counts)
    weights = np.zeros(count)
    weights[:2] = 1, -1
    for _ in range(studies):
        true = sets.truth(d, rng)
        groups = true.study(rng)
        found = contrast(groups, weights)
        _, far = typical(groups)
        printed = not any(far[:2]) and not two_groups(groups[:2])
        if found.low is not None and found.high is not None and printed:
            pair.append(bool(found.low <= true.value[0] - true.value[1] <= found.high))
        variance = set_variance(groups)
        if variance.value > 0 and not any(far) and not two_groups(groups):  # otherwise no interval is printed
            low, high = variance.interval()
            if not lopsided(groups):
                spread.append(bool(low <= true.variance() <= high))
            own = np.array([g.var(ddof=1) for g in groups])
            sizes = np.array([len(g) for g in groups])
            means = np.array([g.mean() for g in groups])
            drawn = source_variance(means, own / sizes, sizes - 1.0, rng, 400)
            low, high = np.quantile(drawn, [0.025, 0.975])
            between.append(bool(low <= d.between**2 <= high))
        if d.between == 0:
            alarms.append(min(_pair_p(groups)) < 0.05)
    return {
        "design": d.name,
        "two sources": share(pair),
        "printed, two": len(pair) / studies,
        "SD of a set": share(spread),
        "SD of sources": share(between),
        "printed, SDs": len(between) / studies,
        "false alarms": share(alarms),
    }


def _pair_p(groups: Sequence[np.ndarray]) -> list[float]:
    """Holm's p of every pair."""
    found = []
    for a in range(len(groups)):
        for b in range(a + 1, len(groups)):
            p = contrast([groups[a], groups[b]], [1, -1]).p
            found.append(1.0 if p is None else p)
    return holm(found)


def answers_about_sets(d: sets.SetDesign, rng: np.random.Generator, studies: int) -> Row:
    """Stated probabilities and regrets against how often, and how much, they come true."""
    best: list[tuple[float, float]] = []
    regret: list[tuple[float, float]] = []
    wins: list[tuple[float, float]] = []
    answers: list[tuple[float, float]] = []
    for _ in range(studies):
        true = sets.truth(d, rng)
        groups = true.study(rng)
        if not has_spread(groups):
            continue
        known = posterior(groups, draws=DRAWS)
        order = np.argsort(-known.truth.mean(axis=0))
        first, second = int(order[0]), int(order[1])
        top = float(true.value.max())
        right = float(true.value[first] == top) if d.between else 1 / len(groups)
        if known.tells:  # otherwise no such probability is printed
            best.append((float(known.best[first]), right))
        regret.append((float(known.regret[:, first].mean()), top - float(true.value[first])))
        one, two = true.draw(first, 300, rng), true.draw(second, 300, rng)
        wins.append((known.wins(first, second), float((one > two).mean() + (one == two).mean() / 2)))
        said = answer(known, MATTERS)
        if said.kind != UNCLEAR:
            answers.append((said.probability, float(top - true.value[list(said.sources)].min() <= MATTERS)))
    sure = [pair for pair in best if pair[0] > 0.9]
    return {
        "design": d.name,
        "P(best) of the leader": _pairs(best),
        "printed": len(best) / studies,
        "where above .9": f"{_pairs(sure)} ({len(sure)})",
        "regret": _pairs(regret),
        "leader wins a new draw": _pairs(wins),
        "answers": len(answers) / studies,
        "answer right": _pairs(answers),
    }


def promises(d: sets.SetDesign, rng: np.random.Generator, studies: int) -> Row:
    """How often the stated number of further sets gives an answer: `studies` cases, each continued several times.

    Only a study without an answer states a number. Where few are, `LOOKED_AT` times as many studies are looked at.
    """
    settled: list[float] = []
    asked: list[int] = []
    never = looked = 0
    while len(settled) + never < studies and looked < LOOKED_AT * studies:
        looked += 1
        true = sets.truth(d, rng)
        groups = true.study(rng)
        if not has_spread(groups):
            continue
        known = posterior(groups, draws=DRAWS)
        if answer(known, MATTERS).kind != UNCLEAR:
            continue
        plan = settling(known, MATTERS)
        if not plan.sets:
            never += 1
            continue
        came = []
        for _ in range(CONTINUED):
            more = [np.append(g, true.draw(s, plan.sets, rng)) for s, g in enumerate(groups)]
            came.append(answer(posterior(more, draws=DRAWS), MATTERS).kind != UNCLEAR)
        settled.append(float(np.mean(came)))
        asked.append(plan.sets)
    error = np.std(settled, ddof=1) / len(settled) ** 0.5 if len(settled) > 1 else float("nan")
    return {
        "design": d.name,
        "settled": float(np.mean(settled)) if settled else float("nan"),
        "standard error": float(error),
        "sets": f"{np.median(asked):.0f}" if asked else "–",
        "cases": str(len(settled)),
        "no number": str(never),
    }


def _pairs(values: Sequence[tuple[float, float]]) -> str:
    return against([v[0] for v in values], [v[1] for v in values])


def component_intervals(d: others.ExampleDesign, rng: np.random.Generator, studies: int) -> Row:
    """Coverage of the components that examples bring, and how often an interval is printed."""
    hits: list[list[float]] = [[], [], []]
    owner = np.repeat(np.arange(d.sources), d.sets).tolist()
    for _ in range(studies):
        matrices, true = others.example_study(d, rng)
        low, high = components(matrices, owner, rng, draws=400).interval()
        for place, index in enumerate((2, 3, 4)):
            if not np.isnan(low[index]):
                hits[place].append(float(low[index] <= true[place] <= high[index]))
    names = ("examples", "source x example", "residual")
    row: Row = {"design": d.name}
    for name, hit in zip(names, hits, strict=True):
        row |= {name: share(hit), f"printed, {name}": len(hit) / studies}
    return row


def method_intervals(d: others.MethodDesign, rng: np.random.Generator, studies: int) -> Row:
    """Coverage of the difference of two methods on these sources; a collapse is no part of a typical set."""
    covered, alarms = [], []
    sd = d.sds or (1.0,) * len(d.counts)
    for _ in range(studies):
        values = [d.source(rng) for _ in d.counts]
        groups = [d.draw(v, s, n, rng) for v, s, n in zip(values, sd, d.counts, strict=True)]
        if any(typical(groups)[1]):
            continue  # no interval is printed
        found = contrast(groups, np.full(len(groups), 1 / len(groups)))
        if found.low is None or found.high is None:
            continue
        covered.append(found.low <= np.mean(values) <= found.high)
        if d.gap == d.between == 0:
            alarms.append(found.p is not None and found.p < 0.05)
    return {
        "design": d.name,
        "difference": share(covered),
        "printed": len(covered) / studies,
        "false alarms": share(alarms),
    }


def agreement_alarms(d: others.TaskDesign, rng: np.random.Generator, studies: int) -> Row:
    """How often tasks are said to agree (p below .05) where no source differs."""
    alarms = []
    for _ in range(studies):
        values, owner = others.task_study(d, rng)
        alarms.append(agreement(values, owner, permutations=399).p < 0.05)
    return {"design": d.name, "false alarms": share(alarms)}


def trend_intervals(d: others.SizeDesign, rng: np.random.Generator, studies: int) -> Row:
    """Coverage of what ten times the parameters do to the SD over draws."""
    covered = []
    for _ in range(studies):
        kept = [typical(groups)[0] for groups in others.size_study(d, rng)]
        variance = [set_variance(groups) for groups in kept]
        value, freedom = np.array([v.value for v in variance]), np.array([v.freedom for v in variance])
        found = log_variance_trend(value, freedom, np.array(d.sizes))
        if found.low is not None and found.high is not None:
            covered.append(found.low <= 10**d.slope <= found.high)
    return {"design": d.name, "factor per tenfold": share(covered)}


def correlation_intervals(d: others.MetricDesign, rng: np.random.Generator, studies: int) -> Row:
    """Coverage of Spearman's rho (of normal values: 6/pi asin(rho/2))."""
    covered = []
    true = 6 / np.pi * np.arcsin(d.rho / 2)
    for _ in range(studies):
        trials = others.metric_study(d, rng)
        if d.name.startswith("within"):
            cell = trials["method"] * d.sources + trials["source"]
            found = correlation(trials["x"], trials["y"], trials["set"], cell, d.sources * (d.sets - 1))
        else:
            means = [np.bincount(trials["source"], trials[name]) / d.sets for name in ("x", "y")]
            one = np.zeros(d.sources, int)
            found = correlation(means[0], means[1], np.arange(d.sources), one, d.sources - 1)
        if found.spearman[1] is not None and found.spearman[2] is not None:
            covered.append(found.spearman[1] <= true <= found.spearman[2])
    return {"design": d.name, "Spearman": share(covered), "printed": len(covered) / studies}


CHECKS = (
    Check(
        "Intervals over sets",
        "Two sources: their difference. SD of a set: mean over sources of its variance. `printed`: share of studies "
        "with an interval; there is none of two sources, and none of the SDs, where a set of one of them is far off or "
        "the sets of one fall into two groups; and none of the SD of a set where one of two sources has two sets only. "
        "A coverage of fewer than "
        f"{FEWEST} intervals is not given. False alarms: any pair of equal sources with Holm's p below .05.",
        sets.SETS,
        intervals_of_sets,
    ),
    Check(
        "Probabilities and answers",
        "Stated / true. `printed`: share of studies in which P(best) is stated; it is not where the sets do not "
        "clearly show that sources differ, nor where no source has three sets. Regret and `matters` (0.5) are in SDs "
        "of a usual draw. Answers: share of studies in which one is given. How many studies stand behind a number is "
        "in brackets.",
        sets.SETS,
        answers_about_sets,
    ),
    Check(
        "What would settle it",
        "A study without an answer names the number of further sets that gives one with a probability of 80 % or "
        "more. `settled`: how often it did; `sets`: that number, median. Where sources are equal it is more "
        "than is needed: studies without an answer are those whose spread is high by luck. `cases`: such studies, "
        f"each continued {CONTINUED} times, sought among up to {LOOKED_AT} times as many; an eighth of the studies of "
        "other tables. `no number`: studies without an answer in which no number of sets is promised. Designs that "
        "nearly always have an answer have few cases.",
        sets.SETS,
        promises,
        fewer=8,
    ),
    Check(
        "Components that examples bring",
        "Right or wrong answers, log odds additive. `printed`: share of studies with an interval.",
        others.EXAMPLES,
        component_intervals,
    ),
    Check(
        "Two methods on the same sets",
        "Mean over these sources of a typical set. `printed`: there is no interval where a set is far off.",
        others.METHODS,
        method_intervals,
    ),
    Check("Agreement of tasks", "No source differs; p below .05.", others.TASKS, agreement_alarms),
    Check("Trend over model size", "Factor of the SD over draws per tenfold.", others.SIZES, trend_intervals),
    Check("Rank correlation of two measures", "Spearman's rho.", others.METRICS, correlation_intervals),
)
