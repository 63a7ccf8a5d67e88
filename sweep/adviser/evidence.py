"""Outcomes as numbers: per arm and target the sums that the posterior needs, and the draws that are far off.

A draw is *far off* where its loss lies more than `FAR` usual SDs of a draw above the middle of its arm's draws. The
usual SD is a median over arms, so that a catastrophe does not hide itself; among few draws a larger distance is asked
for, since their SD may be small by luck. Far-off and failed draws say nothing about
the centre of an arm; how often they happen is counted instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from sweep.adviser.outcomes import FULL, SCREEN, Outcome
from sweep.adviser.scales import anticipated

FAR = 5.0  # usual SDs of a draw, where those are known well
DOUBT = 0.95  # of few draws it is the upper bound of the usual SD at this level that counts


@dataclass(frozen=True)
class Evidence:
    """What was seen of K arms on T targets.

    screen, full: per arm {draw: losses, float64 [targets]} of the draws that are neither failed nor far off.
    tried:        int [arms], draws tried at any fidelity; `lost` how many failed, `far` how many are far off.
    """

    arms: tuple[str, ...]
    screen: tuple[dict[int, np.ndarray], ...]
    full: tuple[dict[int, np.ndarray], ...]
    tried: np.ndarray
    lost: np.ndarray
    far: np.ndarray

    @property
    def alive(self) -> np.ndarray:
        """Arms with a usable draw, or none tried yet, bool [arms]."""
        return np.array([bool(s or f) for s, f in zip(self.screen, self.full, strict=True)]) | (self.tried == 0)

    def counts(self, fidelity: str) -> np.ndarray:
        """Usable draws of each arm, int [arms]."""
        return np.array([len(found) for found in (self.screen if fidelity == SCREEN else self.full)])


def evidence(outcomes: Sequence[Outcome], arms: Sequence[str]) -> Evidence:
    """Outcomes by arm and fidelity. Raises ValueError for an unknown arm, a trial given twice, or ragged losses."""
    number = {arm: index for index, arm in enumerate(arms)}
    seen: set[tuple[str, int, str]] = set()
    found: dict[str, list[dict[int, np.ndarray]]] = {name: [{} for _ in arms] for name in (SCREEN, FULL)}
    tried: list[set[int]] = [set() for _ in arms]
    lost: list[set[int]] = [set() for _ in arms]
    widths = {len(outcome.values) for outcome in outcomes if not outcome.lost}
    if len(widths) > 1:
        raise ValueError(f"outcomes have {sorted(widths)} losses; expected one per target in each")
    for outcome in outcomes:
        key = (outcome.arm, outcome.draw, outcome.fidelity)
        if outcome.arm not in number:
            raise ValueError(f"outcome of an unknown arm '{outcome.arm}'")
        if key in seen:
            raise ValueError(f"{outcome.arm}, draw {outcome.draw}: two outcomes at the fidelity '{outcome.fidelity}'")
        seen.add(key)
        index = number[outcome.arm]
        tried[index].add(outcome.draw)
        if outcome.lost:
            lost[index].add(outcome.draw)
        else:
            found[outcome.fidelity][index][outcome.draw] = np.asarray(outcome.values, float)
    expected = anticipated(found[SCREEN], found[FULL])
    far = [low | high for low, high in zip(_far(found[SCREEN]), _far(found[FULL], expected), strict=True)]
    usable = {
        name: tuple({d: v for d, v in draws.items() if d not in far[i]} for i, draws in enumerate(found[name]))
        for name in found
    }
    sizes = [np.array([len(part) for part in parts], int) for parts in (tried, lost, far)]
    return Evidence(tuple(arms), usable[SCREEN], usable[FULL], *sizes)


def usual_variance(groups: Sequence[np.ndarray]) -> np.ndarray | None:
    """Median over arms of the variance of a draw, [targets], given [draws, targets] of each; None if unknown."""
    found = [((g - g.mean(axis=0)) ** 2).sum(axis=0) / special.chdtri(len(g) - 1, 0.5) for g in groups if len(g) > 1]
    return np.asarray(np.median(found, axis=0)) if found else None


def stacked(draws: dict[int, np.ndarray]) -> np.ndarray:
    """float64 [draws, targets] in the order of the draws."""
    return np.array([draws[draw] for draw in sorted(draws)])


def _far(
    found: Sequence[dict[int, np.ndarray]], expected: tuple[np.ndarray, np.ndarray] | None = None
) -> list[set[int]]:
    """Draws of each arm that are far off on any target at one fidelity.

    expected: per target a variance of a draw that is known otherwise, and its degrees of freedom (`scales`).
    """
    groups = [stacked(draws) for draws in found]
    variance, freedom = usual_variance(groups), sum(max(len(values) - 1, 0) for values in groups)
    if variance is None or not (variance > 0).any():
        return [set() for _ in found]
    other, more = expected or (np.ones_like(variance), np.zeros_like(variance))
    known = freedom + more
    doubt = special.chdtri(known, 1 - (1 - DOUBT) / len(variance))  # every target may be the one with the least SD
    distance = FAR * np.sqrt((freedom * variance + more * other) / doubt)
    far = []
    for draws, values in zip(found, groups, strict=True):
        middle = np.sort(values, axis=0)[(len(values) - 1) // 2] if len(values) else 0.0
        bad = [((value - middle) > distance).any() for value in values]
        far.append({draw for draw, is_far in zip(sorted(draws), bad, strict=True) if is_far})
    return far
