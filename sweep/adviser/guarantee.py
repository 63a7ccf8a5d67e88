"""A race on full draws that errs at most with a stated probability (Paulson's elimination as Kim and Nelson made it).

All arms give `FIRST` draws; the variance of a draw is pooled over them. After each further round of one draw an arm
leaves when its total loss exceeds another's by more than max(0, h² S_d² / (2Δ) - Δ r / 2), where S_d² = 2 S² is the
variance of a difference, r the draws so far, h² = 2ην, ν = K (FIRST - 1) and η = ((2α / (K - 1))^(-2/ν) - 1) / 2. For
normal draws of one variance the best arm then survives with probability at least 1 - α where it leads by Δ, and the
race ends within 2 h² / δ² rounds for a lead of δ SDs of a draw (Kim and Nelson 2001, ACM TOMACS 11(3), theorem 1 with
c = 1). Δ is what matters where the user says it; otherwise `lead` estimated SDs, and the statement is approximate. A
common variance and the normal law are assumptions: docs/adviser.md shows what becomes of the error without them.

Several targets are several races on the same trials at α over their number: an arm leaves when it has left them all,
and a single survivor is the best for each of the targets. An arm whose draw fails leaves at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweep.adviser.outcomes import FULL, Outcome, Rules

FIRST = 3  # draws of each arm before the first comparison


@dataclass(frozen=True)
class Race:
    """survivors: arms still in the race, the one of least mean loss first. rounds: draws of each of them so far.

    wanted: (arm, draw) of the next round. most_rounds: the race ends no later. h2: the constant of the boundary.
    """

    survivors: tuple[str, ...]
    rounds: int
    wanted: tuple[tuple[str, int], ...]
    most_rounds: int
    h2: float
    words: str


def boundary_constant(arms: int, alpha: float, first: int = FIRST) -> float:
    """h² of the race."""
    freedom = arms * (first - 1)
    return freedom * ((2 * alpha / (arms - 1)) ** (-2 / freedom) - 1)


def rounds_needed(arms: int, alpha: float, lead: float, first: int = FIRST) -> int:
    """Rounds after which the race has ended, for a lead in SDs of a draw."""
    return max(first, math.ceil(2 * boundary_constant(arms, alpha, first) / lead**2))


def race(outcomes: Sequence[Outcome], arms: Sequence[str], rules: Rules) -> Race:
    """Where the race stands, from the outcomes of whole rounds; screens are not looked at.

    Raises ValueError for fewer than two arms.
    """
    if len(arms) < 2:
        raise ValueError(f"{len(arms)} arm: a race needs two")
    full = {arm: {o.draw: o for o in outcomes if o.arm == arm and o.fidelity == FULL} for arm in arms}
    running = [arm for arm in arms if not any(outcome.lost for outcome in full[arm].values())]
    alpha = rules.alpha / len(rules.targets)
    h2 = boundary_constant(len(arms), alpha)
    done = min((len(full[arm]) for arm in running), default=0)
    if done < FIRST:
        wanted = tuple((arm, draw) for arm in running for draw in range(FIRST) if draw not in full[arm])
        return Race(tuple(running), done, wanted, rounds_needed(len(arms), alpha, rules.lead), h2, "not begun")
    target_races = [_target(full, running, rules, target, h2) for target in range(len(rules.targets))]
    left = [arm for arm in running if any(arm in found for found, _ in target_races)]
    rounds = min(len(full[arm]) for arm in left)
    most = max(end for _, end in target_races)
    means = {arm: np.mean([full[arm][draw].values for draw in sorted(full[arm])], axis=0).sum() for arm in left}
    left.sort(key=lambda arm: means[arm])
    wanted = tuple((arm, rounds) for arm in left if rounds not in full[arm]) if len(left) > 1 else ()
    words = (
        f"{left[0]} is left after {rounds} rounds: the best arm, should it lead by {_asked(rules)}, has been lost with "
        f"probability {rules.alpha:g} at most"
        if len(left) == 1
        else f"{len(left)} arms are left after {rounds} rounds"
    )
    return Race(tuple(left), rounds, wanted, most, h2, words)


def _asked(rules: Rules) -> str:
    """The lead that the guarantee is for."""
    return f"{rules.lead:g} SDs of a draw" if rules.matters is None else "what matters"


def _target(
    full: dict[str, dict[int, Outcome]], running: Sequence[str], rules: Rules, target: int, h2: float
) -> tuple[set[str], int]:
    """(arms still in the race of one target, rounds after which it has ended)."""
    losses = {arm: [full[arm][draw].values[target] for draw in sorted(full[arm])] for arm in running}
    squares = sum(float(np.var(losses[arm][:FIRST])) * FIRST for arm in running)
    variance = squares / (len(running) * (FIRST - 1))
    size = rules.matters[target] if isinstance(rules.matters, tuple) else rules.matters
    lead = size if size is not None else rules.lead * math.sqrt(variance)
    inside = set(running)
    if not variance > 0:  # no luck of the draw: the means decide
        least = min(float(np.mean(values)) for values in losses.values())
        return {arm for arm in running if np.mean(losses[arm]) <= least}, FIRST
    end = max(FIRST, math.ceil(2 * h2 * variance / lead**2))
    for r in range(FIRST, max(len(values) for values in losses.values()) + 1):
        totals = {arm: float(np.sum(losses[arm][:r])) for arm in inside if len(losses[arm]) >= r}
        if len(totals) < len(inside):
            break
        bound = max(0.0, h2 * variance / lead - lead * r / 2)
        least = min(totals.values())
        inside = {arm for arm, total in totals.items() if total - least <= bound}
        if r >= end:
            inside = {min(sorted(inside), key=lambda arm: totals[arm])}
            break
    return inside, end
