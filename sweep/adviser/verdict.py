"""The answer, in numbers: which arm, how sure, what it gains, which draw to ship, what more time would buy.

An arm *will do* when its expected regret is at most what matters. If only the leader will do it is the winner; if
several will, they tie, and all of them tying means that any will do; if not even the leader will, it cannot be told
yet, and the arms that may still be best are named. Where nobody says what matters, any will do as well when taking one
at random is expected to cost no more than the luck of one draw, or than a twentieth of what compression costs anyway,
and none of them more than twice that: a tenth of a draw's SD, to which the race goes on, is a difference that a person
would hardly act on.

Intervals are central 80 % intervals of the posterior, and upper bounds are its 80 % quantiles. Everything is said of
the examples that judged the draws; `noise` lets the choice of a draw look past them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweep.adviser.evidence import stacked
from sweep.adviser.outcomes import Controls, Costs, Outcome, Rules
from sweep.adviser.policy import cannot_matter, left_for, measured, shared_plan
from sweep.adviser.posterior import Belief, believe
from sweep.adviser.worth import regret_after, regret_now

WINNER, TIE, UNCLEAR, NO_MATTER, FAILED = "winner", "tie", "cannot tell", "cannot matter", "failed"
LOW, HIGH = 0.1, 0.9  # quantiles of intervals
UPPER = 0.8  # quantile of upper bounds
MAY_BE_BEST = 0.05  # an arm with a larger probability to be best is still in question
SURE = 0.8  # that two targets order two arms in opposite ways
DRAWS = 2000
SLIGHT = 0.05  # of what compression with the leader costs against the dense model
AMISS = 3.0
WORST = 2.0  # times as much may the worst arm cost where any will do
HOUR = 3600.0


@dataclass(frozen=True)
class Standing:
    """What is known of one arm.

    loss:   expected criterion with its interval: in the unit of the loss, or the worst regret over several targets.
    values: expected full loss on each target. p_best, p_near: probabilities to be best, and within what matters of it.
    rate:   expected share of draws that fail or are far off.
    """

    arm: str
    loss: float
    low: float
    high: float
    values: tuple[float, ...]
    p_best: float
    p_near: float
    regret: float
    regret_upper: float
    rate: float
    screens: int
    fulls: int
    failures: int
    far: int


@dataclass(frozen=True)
class Gain:
    """How much less is lost on one target, with an interval."""

    target: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class More:
    """What more time buys: `trials` further full trials would bring the expected regret from `now` to `then`.

    `seconds` of all workers: an hour, or less where these trials are all that are left of the arms that may be best.
    """

    seconds: float
    trials: int
    now: float
    then: float


@dataclass(frozen=True)
class Ship:
    """The draw to ship, of the arm to use.

    p_best:     probability that it is the best of the arm's draws with full trials.
    p_fresh:    probability that one new draw of the arm would be better.
    better:     (arm, draw) of another arm whose draw is expected to be better still, or None.
    """

    arm: str
    draw: int
    p_best: float
    p_fresh: float
    better: tuple[str, int] | None


@dataclass(frozen=True)
class Disagreement:
    """Two targets that order their best arms in opposite ways, with that probability; rank correlation of all arms."""

    first: str
    second: str
    best_first: str
    best_second: str
    probability: float
    correlation: float


@dataclass(frozen=True)
class Verdict:
    """The answer. `arm` is what to use, also where it cannot be told for sure; None where all failed.

    named: the arms that will do, or those that may still be best where that cannot be told; the leader first.
    sd:    SD of a usual full draw per target, None while unknown. `matters` and the regrets are in the unit of
           `Standing.loss`. rho: expected correlation of true screens and true full losses, per target.
    """

    kind: str
    arm: str | None
    named: tuple[str, ...]
    any_will_do: bool
    reason: str
    standings: tuple[Standing, ...] = ()
    sd: tuple[float, ...] | None = None
    matters: float | None = None
    regret: float | None = None
    regret_upper: float | None = None
    gain_random: tuple[Gain, ...] = ()
    gain_control: tuple[Gain, ...] = ()
    more: More | None = None
    ship: Ship | None = None
    disagreements: tuple[Disagreement, ...] = ()
    rho: tuple[float, ...] | None = None


def judge(
    outcomes: Sequence[Outcome],
    arms: Sequence[str],
    rules: Rules,
    costs: Costs,
    controls: Controls | None = None,
    noise: Sequence[float] | None = None,
    workers: int = 1,
    survivor: str | None = None,
) -> Verdict:
    """The answer from all outcomes.

    survivor: the arm that a race with a stated error left, which is the answer then, whoever leads by a little.
    noise:   per target the variance of one draw's full loss that the choice of test examples causes.
    workers: how many work side by side, for what one more hour buys.
    Raises ValueError for fewer than two arms.
    """
    idle = cannot_matter(controls, rules.matters, rules)
    if idle or (outcomes and all(outcome.lost for outcome in outcomes)) or not outcomes:
        if idle:
            return Verdict(NO_MATTER, arms[0], tuple(arms), True, idle)
        words = f"all {len(outcomes)} trials failed" if outcomes else "no trial was run"
        return Verdict(FAILED, None, (), False, words)
    belief = believe(outcomes, arms, rules, DRAWS)
    idle = cannot_matter(controls, tuple((belief.matters * belief.unit).tolist()), rules)
    kind, named, words = said(belief, slight(belief, controls, rules))
    lead = belief.leader if survivor is None else belief.arms.index(survivor)
    if survivor is not None:
        kind, named, words = _after_race(lead, kind, named, words)
    regret = belief.regret[:, lead]
    return Verdict(
        NO_MATTER if idle else kind,
        belief.arms[lead],
        tuple(belief.arms[k] for k in (np.flatnonzero(belief.alive) if idle else named)),
        bool(idle) or (kind in (WINNER, TIE) and len(named) == int(belief.alive.sum())),
        idle or words,
        _standings(belief, outcomes),
        tuple(belief.sd.tolist()) if any(len(found) > 1 for found in belief.seen.full) else None,
        belief.matters,
        float(regret.mean()),
        float(np.quantile(regret, UPPER)),
        _gains(rules, belief.truth[:, belief.alive].mean(axis=1) - belief.truth[:, lead]),
        _gains(rules, np.asarray(controls.data_free) - belief.truth[:, lead])
        if controls and controls.data_free
        else (),
        _more(belief, outcomes, rules, costs, workers),
        _ship(belief, lead, np.zeros(len(rules.targets)) if noise is None else np.asarray(noise, float)),
        _disagreements(belief, rules),
        tuple(belief.rho.mean(axis=0).tolist()),
    )


def slight(belief: Belief, controls: Controls | None, rules: Rules) -> np.ndarray | None:
    """What a choice at random may cost on each target where any will do, [targets]; None where somebody said what
    matters.

    The SD of a draw of an arm taken at random, or `SLIGHT` of what compression costs with the leader (without data,
    where that is less).
    """
    if rules.matters is not None:
        return None
    luck = luck_of_one(belief)
    if controls is None or controls.dense is None:
        return luck
    cost = belief.value[:, belief.leader].mean(axis=0) - np.asarray(controls.dense)
    if controls.data_free is not None:
        cost = np.minimum(cost, np.asarray(controls.data_free) - np.asarray(controls.dense))
    return np.maximum(SLIGHT * cost, luck)


def luck_of_one(belief: Belief) -> np.ndarray:
    """SD of one draw of an arm taken at random, on each target, [targets]: arms of large spread count in full."""
    return np.asarray(np.median(np.sqrt((belief.spread[:, belief.alive] ** 2).mean(axis=1)), axis=0))


def said(belief: Belief, slight: np.ndarray | None = None) -> tuple[str, list[int], str]:
    """(kind, arms that are named with the leader first, why); `slight` differences need no further telling apart."""
    lead, regret = belief.leader, belief.expected_regret
    ranked = [lead, *(int(k) for k in np.argsort(regret, kind="stable") if k != lead and belief.alive[k])]
    will_do = [k for k in ranked if regret[k] <= belief.matters]
    name = belief.arms[lead]
    if slight is not None:
        value = belief.value[:, belief.alive]
        shares = ((value - value.min(axis=1, keepdims=True)) / slight).max(axis=2)  # [draws, arms]
        if shares.mean() <= 1 and shares.mean(axis=0).max() <= WORST and not _bad_at_first_sight(belief):
            return TIE, ranked, _random_costs(shares, slight <= luck_of_one(belief))
    if not will_do:
        open_ = [k for k in ranked if k == lead or belief.best[k] > MAY_BE_BEST]
        words = f"{name} leads with an expected regret of {regret[lead]:.3g}, more than matters, {belief.matters:.3g}"
        return UNCLEAR, open_, words
    if len(will_do) == 1:
        words = f"only {name} has an expected regret, {regret[lead]:.3g}, of at most what matters, {belief.matters:.3g}"
        return WINNER, will_do, words
    words = f"the expected regret of {len(will_do)} arms is at most what matters, {belief.matters:.3g}"
    return TIE, will_do, words


def _after_race(survivor: int, kind: str, named: list[int], words: str) -> tuple[str, list[int], str]:
    """What is said where a race has left one arm: that it is to be used, and those that will do as well."""
    if kind == UNCLEAR or survivor not in named:
        return WINNER, [survivor], "the race has left no other"
    return kind, [survivor, *(k for k in named if k != survivor)], words


def _random_costs(shares: np.ndarray, by_luck: np.ndarray) -> str:
    """What arms cost, from the shares of a slight difference [draws, arms]; `by_luck`: on each target, whether an SD of
    a draw is that difference."""
    if by_luck.all():
        scale, unit = 1.0, "SD of a draw"
    elif not by_luck.any():
        scale, unit = 100 * SLIGHT, "% of what compression costs"
    else:
        scale, unit = 1.0, "times an SD of a draw or a twentieth of what compression costs"
    mean, worst = scale * shares.mean(), scale * shares.mean(axis=0).max()
    upper = scale * np.quantile(shares.mean(axis=1), UPPER)
    return (
        f"one at random is expected to cost {mean:.2g} {unit} more than the best (with 80 % probability at most "
        f"{upper:.2g}), the worst {worst:.2g}"
    )


def _bad_at_first_sight(belief: Belief) -> bool:
    """Whether an arm with fewer than two full draws screened worse than is usual by more than `AMISS` SDs of a screened
    draw.

    Arms that are alike in full draws teach that screens tell nothing, and that an arm apart has a large spread; of such
    an arm that would be a bold conclusion.
    """
    screens = [stacked(found) for found in belief.seen.screen if found]
    freedom = sum(len(values) - 1 for values in screens)
    if not freedom:
        return False
    squares = np.sum([((values - values.mean(axis=0)) ** 2).sum(axis=0) for values in screens], axis=0)
    usual = np.median([values.mean(axis=0) for values in screens], axis=0)
    hardly = [stacked(s) for s, f in zip(belief.seen.screen, belief.seen.full, strict=True) if s and len(f) < 2]
    return any((values.mean(axis=0) - usual > AMISS * np.sqrt(squares / freedom)).any() for values in hardly)


def _standings(belief: Belief, outcomes: Sequence[Outcome]) -> tuple[Standing, ...]:
    """One per arm, least expected regret first; arms without a usable draw last."""
    tried = {arm: [o for o in outcomes if o.arm == arm] for arm in belief.arms}
    best, near, regret = belief.best, belief.near(belief.matters), belief.expected_regret
    upper = np.quantile(belief.regret, UPPER, axis=0, method="lower")
    low, high = np.quantile(belief.loss, [LOW, HIGH], axis=0, method="lower")
    return tuple(
        Standing(
            belief.arms[k],
            float(belief.loss[:, k].mean()),
            float(low[k]),
            float(high[k]),
            tuple(belief.truth[:, k].mean(axis=0).tolist()) if belief.alive[k] else (),
            float(best[k]),
            float(near[k]),
            float(regret[k]),
            float(upper[k]),
            float(belief.rate[:, k].mean()),
            len({o.draw for o in tried[belief.arms[k]] if o.fidelity == "screen"}),
            len({o.draw for o in tried[belief.arms[k]] if o.fidelity == "full"}),
            int(belief.seen.lost[k]),
            int(belief.seen.far[k]),
        )
        for k in np.argsort(regret, kind="stable")
    )


def _gains(rules: Rules, gain: np.ndarray) -> tuple[Gain, ...]:
    """Of float64 [draws, targets]."""
    rows = np.vstack([gain.mean(axis=0), np.quantile(gain, [LOW, HIGH], axis=0)]).T
    return tuple(Gain(target, *row) for target, row in zip(rules.targets, rows.tolist(), strict=True))


def _more(belief: Belief, outcomes: Sequence[Outcome], rules: Rules, costs: Costs, workers: int) -> More:
    """One more hour of all workers, spent on full draws of the arms that may be best."""
    each = measured(outcomes, costs).full / workers
    trials = int(HOUR / each)
    draws = left_for(outcomes, belief, rules)
    plan = shared_plan(belief, draws, trials) if trials and any(draws) else np.zeros(len(belief.arms))
    now = regret_now(belief)
    bought = int(plan.sum())
    return More(HOUR if bought == trials else bought * each, bought, now, min(now, regret_after(belief, plan)))


def _ship(belief: Belief, lead: int, noise: np.ndarray) -> Ship | None:
    """The tried draw of the leader that is expected to be best."""
    rng = np.random.default_rng(len(belief.seen.full[lead]))
    keys = [(k, draw) for k, found in enumerate(belief.seen.full) for draw in sorted(found)]
    own = [i for i, (k, _) in enumerate(keys) if k == lead]
    if not own:
        return None
    index = np.array([k for k, _ in keys])
    seen = np.array([belief.seen.full[k][draw] for k, draw in keys])  # [keys, targets]
    truth, variance = belief.truth[:, index], belief.spread[:, index] ** 2
    own_share = np.clip(1 - noise / np.maximum(variance, 1e-300), 0, 1)  # of a deviation, what is not the examples'
    luck = rng.standard_normal(truth.shape)
    value = truth + own_share * (seen - truth) + np.sqrt(noise * own_share) * luck
    fresh = truth[:, own[0]] + np.sqrt(np.maximum(variance[:, own[0]] - noise, 0)) * luck[:, 0]
    floor = np.where(belief.alive[:, None], belief.truth, np.inf).min(axis=1)
    loss = ((value - floor[:, None]) / belief.unit).max(axis=2)  # [draws, keys]
    new = ((fresh - floor) / belief.unit).max(axis=1)
    expected = loss.mean(axis=0)
    chosen = min(own, key=lambda i: expected[i])
    best = int(expected.argmin())
    return Ship(
        belief.arms[lead],
        keys[chosen][1],
        float((loss[:, chosen] <= loss[:, own].min(axis=1)).mean()),
        float((new < loss[:, chosen]).mean()),
        None if keys[best][0] == lead else (belief.arms[keys[best][0]], keys[best][1]),
    )


def _disagreements(belief: Belief, rules: Rules) -> tuple[Disagreement, ...]:
    """Pairs of targets whose best arms the other target orders the other way, surely enough."""
    arms = np.flatnonzero(belief.alive)
    truth = belief.truth[:, arms]
    mean = truth.mean(axis=0)
    ranks = mean.argsort(axis=0).argsort(axis=0)
    found = []
    for t in range(len(rules.targets)):
        for u in range(t + 1, len(rules.targets)):
            a, b = int(mean[:, t].argmin()), int(mean[:, u].argmin())
            opposite = (truth[:, a, t] < truth[:, b, t]) & (truth[:, b, u] < truth[:, a, u])
            if a != b and opposite.mean() >= SURE:
                correlation = float(np.corrcoef(ranks[:, t], ranks[:, u])[0, 1])
                names = (rules.targets[t], rules.targets[u], belief.arms[arms[a]], belief.arms[arms[b]])
                found.append(Disagreement(*names, float(opposite.mean()), correlation))
    return tuple(found)
