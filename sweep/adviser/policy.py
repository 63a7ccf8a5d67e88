"""Which trials to run next, or whether to stop: a pure function of the outcomes so far.

0. Where costs are guesses, screens and a full trial of one arm, which say what both cost here.
1. Screens: `SCREENS` draws of every arm, if the cheap fidelity is cheap enough to pay.
2. First full draws: `FIRST` each of the arms that look best, as many arms as half of what is left can pay.
3. Rounds of one more full draw for each of the best few, until the expected regret of the leader is at most what
   matters, or the budget or the draws are spent. How many arms share a round is the number among which the rest of the
   budget, were it spent evenly, would leave the least expected regret; they are those with the largest probabilities
   to be best.

Rounds are whole and nothing in them is random, so neither the number of workers nor the order of their results changes
what is tried. An interrupted run goes on from its outcomes. With `Rules.guarantee` the race of `guarantee.py` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from calib.settings import counted
from sweep.adviser.guarantee import race
from sweep.adviser.outcomes import FULL, SCREEN, Controls, Costs, Outcome, Round, Rules, Stop, Trial
from sweep.adviser.posterior import Belief, believe
from sweep.adviser.worth import regret_after, regret_now

SCREENS, FIRST = 3, 2
SCREEN_SHARE = 0.35  # of the budget at most goes to screens
SCREEN_COST = 0.5  # of a full trial: a dearer screen tells less for its time than a full draw
TIMED = 2  # screens that say what one costs: the first on a worker loads what the others have
FEWEST = 3  # arms that get full draws
PORTION = 1 / 3  # of the trials that are left goes to one round
HOPE = 0.01  # probability to be best below which an arm gets no further draws
SHARING = (2, 3, 4, 6, 8, 12, 20)  # numbers of arms that may share a round


def next_round(
    outcomes: Sequence[Outcome], arms: Sequence[str], rules: Rules, costs: Costs, controls: Controls | None = None
) -> Round | Stop:
    """The next trials, none of which is among the outcomes, or why there are none.

    Raises ValueError for fewer than two arms, and for outcomes that `evidence` refuses.
    """
    if len(arms) < 2:
        raise ValueError(f"{len(arms)} arm: a comparison needs two")
    costs = measured(outcomes, costs)
    left = rules.budget - spent(outcomes, costs)
    idle = cannot_matter(controls, rules.matters, rules)
    if idle:
        return Stop("cannot matter", idle)
    if rules.guarantee:
        return _guaranteed(outcomes, arms, rules, costs, left)
    timed = _timed(outcomes, arms, costs, left)
    if timed:
        return Round(timed, f"screens and a full trial of {arms[0]} say what they cost")
    screens = _screens(outcomes, arms, rules, costs)
    if screens:
        draws = max(trial.draw for trial in screens) + 1
        told = f"{counted(len(screens), 'screen')}: {counted(draws, 'draw')} of each of {len(arms)} arms"
        return Round(screens, f"{told}, at {_share(costs)} of a full trial's cost")
    if outcomes and {outcome.arm for outcome in outcomes} == set(arms) and all(outcome.lost for outcome in outcomes):
        return Stop("failed", f"all {len(outcomes)} trials failed")
    if not _begun(outcomes):
        return _first(outcomes, arms, rules, costs, left)
    return _further(outcomes, believe(outcomes, arms, rules), rules, costs, left)


def measured(outcomes: Sequence[Outcome], costs: Costs) -> Costs:
    """Costs with the median seconds of the trials that were run, the lower of two, failed ones left out."""
    found = {
        fidelity: [o.seconds for o in outcomes if o.fidelity == fidelity and not o.failed]
        for fidelity in (SCREEN, FULL)
    }
    known = {fidelity: sorted(seconds)[(len(seconds) - 1) // 2] for fidelity, seconds in found.items() if seconds}
    guessed = costs.guessed and len(known) < len(found)
    return replace(costs, screen=known.get(SCREEN, costs.screen), full=known.get(FULL, costs.full), guessed=guessed)


def spent(outcomes: Sequence[Outcome], costs: Costs) -> float:
    """Seconds of one worker until now."""
    return costs.spent + sum(outcome.seconds for outcome in outcomes)


def least_budget(arms: Sequence[str], costs: Costs) -> float:
    """The seconds that an answer needs: the controls, and a full draw of each of the fewest arms after screens."""
    screens = len(arms) * costs.screen if costs.screen <= SCREEN_COST * costs.full else 0.0
    first = FEWEST if screens else len(arms)
    return costs.spent + screens + min(first, len(arms)) * costs.full


def cannot_matter(controls: Controls | None, matters: float | tuple[float, ...] | None, rules: Rules) -> str | None:
    """Why no calibration data can gain what matters, in one line; None where they can, or nothing is known.

    The best that data can do is to lose nothing against the dense model.
    """
    if controls is None or controls.dense is None or controls.data_free is None or matters is None:
        return None
    sizes = matters if isinstance(matters, tuple) else (matters,) * len(rules.targets)
    gains = [free - dense for free, dense in zip(controls.data_free, controls.dense, strict=True)]
    if any(gain >= size for gain, size in zip(gains, sizes, strict=True)):
        return None
    worst = max(gains)
    return f"without any data at most {worst:.3g} is lost against the dense model, less than matters"


def _begun(outcomes: Sequence[Outcome]) -> bool:
    """Whether full draws were made for more than their time: of more than one arm."""
    return len({outcome.arm for outcome in outcomes if outcome.fidelity == FULL}) > 1


def _timed(outcomes: Sequence[Outcome], arms: Sequence[str], costs: Costs, left: float) -> tuple[Trial, ...]:
    """Draws of the first arm at both fidelities, where only a guess says what screens cost; none where even that calls
    them too dear."""
    if not costs.guessed or costs.screen > SCREEN_COST * costs.full or left < TIMED * costs.screen + costs.full:
        return ()
    if any(outcome.fidelity == FULL for outcome in outcomes):
        return ()
    done = {(outcome.arm, outcome.draw, outcome.fidelity) for outcome in outcomes}
    wanted = [*((arms[0], draw, SCREEN) for draw in range(TIMED)), (arms[0], 0, FULL)]
    return tuple(Trial(*one) for one in wanted if one not in done)


def _share(costs: Costs) -> str:
    return f"{100 * costs.screen / costs.full:.0f} %"


def _screens(outcomes: Sequence[Outcome], arms: Sequence[str], rules: Rules, costs: Costs) -> tuple[Trial, ...]:
    """The screens that are still to run; none where full trials have begun or a screen is too dear."""
    if costs.screen > SCREEN_COST * costs.full or _begun(outcomes):
        return ()
    affordable = int(SCREEN_SHARE * (rules.budget - costs.spent) / (len(arms) * costs.screen + 1e-12))
    draws = min(SCREENS, affordable, rules.draws)
    done = {(outcome.arm, outcome.draw) for outcome in outcomes if outcome.fidelity == SCREEN}
    return tuple(Trial(arm, draw, SCREEN) for arm in arms for draw in range(draws) if (arm, draw) not in done)


def _first(outcomes: Sequence[Outcome], arms: Sequence[str], rules: Rules, costs: Costs, left: float) -> Round | Stop:
    """The first full draws: of the arms that look best, or of all where there were no screens."""
    trials = int(left / costs.full)
    order, first, told = list(arms), len(arms), ""
    if {outcome.arm for outcome in outcomes} == set(arms):
        belief = believe(outcomes, arms, rules)
        ranked = np.argsort(np.where(belief.alive, belief.expected_regret, np.inf), kind="stable")
        order = [arms[k] for k in ranked if belief.alive[k]]
        first = min(max(trials // (2 * FIRST), FEWEST), len(order))
    elif costs.screen > SCREEN_COST * costs.full:
        told = f"; no screens, since one {'would cost' if costs.guessed else 'costs'} {_share(costs)} of a full trial"
    draws = FIRST if first * FIRST <= trials else 1
    first = min(first, trials // draws)
    if first < min(2, len(order)):
        return Stop("budget", f"{max(left, 0):.0f} s are left, and full trials of two arms need {2 * costs.full:.0f} s")
    done = {arm: sum(o.arm == arm and o.fidelity == FULL for o in outcomes) for arm in arms}
    planned = [
        Trial(arm, draw, FULL) for arm in order[:first] for draw in untried(outcomes, arm, rules)[: draws - done[arm]]
    ]
    return Round(tuple(planned), f"{counted(draws, 'full draw')} of each of {first} arms{told}")


def _further(outcomes: Sequence[Outcome], belief: Belief, rules: Rules, costs: Costs, left: float) -> Round | Stop:
    """One more full draw for each of the best few, or the end."""
    regret = regret_now(belief)
    if regret <= belief.matters:
        return Stop("settled", f"the expected regret, {regret:.3g}, is at most what matters, {belief.matters:.3g}")
    trials = int(left / costs.full)
    if trials < 1:
        return Stop("budget", f"{max(left, 0):.0f} s are left, and a full trial needs {costs.full:.0f} s")
    draws = left_for(outcomes, belief, rules)
    if not any(draws):
        return Stop("draws", f"every arm has given its {rules.draws} draws")
    chosen = np.flatnonzero(shared_plan(belief, draws, trials))
    each = max(1, int(PORTION * trials / len(chosen)))
    planned = [Trial(belief.arms[k], draw, FULL) for k in chosen for draw in draws[k][:each]]
    least, most = (bound(len(draws[k][:each]) for k in chosen) for bound in (min, max))
    more = f"{'up to ' * (least < most)}{counted(most, 'more full draw')}"
    return Round(tuple(planned), f"{more} of each of {counted(len(chosen), 'arm')}")


def untried(outcomes: Sequence[Outcome], arm: str, rules: Rules) -> list[int]:
    """Draws of an arm that have no full trial yet, in order: those that were screened come first."""
    done = {outcome.draw for outcome in outcomes if outcome.arm == arm and outcome.fidelity == FULL}
    return [draw for draw in range(rules.draws) if draw not in done]


def left_for(outcomes: Sequence[Outcome], belief: Belief, rules: Rules) -> list[list[int]]:
    """Draws that each arm can still give; none for an arm without a usable draw."""
    return [
        untried(outcomes, arm, rules) if alive else [] for arm, alive in zip(belief.arms, belief.alive, strict=True)
    ]


def shared_plan(belief: Belief, draws: Sequence[Sequence[int]], trials: int) -> np.ndarray:
    """Further full draws of each arm, float64 [arms]: `trials` shared evenly among the arms most likely to be best, as
    many of them as leaves the least expected regret."""
    best = belief.best
    ranked = [int(k) for k in np.argsort(-best, kind="stable") if draws[int(k)]]
    ranked = [k for k in ranked if best[k] >= HOPE] or ranked[:1]
    left = np.array([len(own) for own in draws])
    plans = []
    for count in sorted({min(count, len(ranked), trials) for count in SHARING}):
        more = np.zeros(len(belief.arms))
        more[ranked[:count]] = trials / count
        plans.append(np.minimum(more, left))
    return plans[int(np.argmin([regret_after(belief, plan) for plan in plans]))]


def _guaranteed(
    outcomes: Sequence[Outcome], arms: Sequence[str], rules: Rules, costs: Costs, left: float
) -> Round | Stop:
    """The next round of the race, or its end."""
    found = race(outcomes, arms, rules)
    if len(found.survivors) <= 1:
        return Stop("guaranteed" if found.survivors else "failed", found.words)
    missing = [Trial(arm, draw, FULL) for arm, draw in found.wanted]
    if any(trial.draw >= rules.draws for trial in missing):
        return Stop("draws", f"every arm gives {rules.draws} draws, and the race may need {found.most_rounds}")
    if len(missing) * costs.full > left:
        return Stop(
            "budget", f"a round of {len(missing)} trials needs {len(missing) * costs.full:.0f} s; {left:.0f} s are left"
        )
    return Round(tuple(missing), f"round {found.rounds + 1} of the race among {len(found.survivors)} arms")
