"""Outcomes as numbers: per arm and target the sums that the posterior needs, and the draws that are far off.

A draw is *far off* where that explains its loss better than the luck of a usual draw does. Far off means at least
`FAR` SDs of a draw above its arm's other draws and nobody knows how far; a usual draw follows a Student law, since its
arm's spread is known from few draws and may be unlike the other arms'. So among few draws a larger distance is asked
for. Far-off and failed draws say nothing about the centre of an arm; how often they happen is counted instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from sweep.adviser.outcomes import FULL, SCREEN, Outcome
from sweep.adviser.scales import NORMAL_MEDIAN, anticipated

FAR = 5.0  # SDs of a draw at least; how much farther, nobody knows: its density is FAR / distance²
USUAL_RATE = 0.02  # of draws that are far off, before any is seen
OWN = 4.0  # degrees of freedom by which an arm's variance is drawn towards that of all arms
SUSPECT = 3.0  # robust SDs above the middle, from where a draw is looked at


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


def stacked(draws: dict[int, np.ndarray]) -> np.ndarray:
    """float64 [draws, targets] in the order of the draws."""
    return np.array([draws[draw] for draw in sorted(draws)])


def _far(
    found: Sequence[dict[int, np.ndarray]], expected: tuple[np.ndarray, np.ndarray] | None = None
) -> list[set[int]]:
    """Draws of each arm that are far off on any target at one fidelity.

    expected: per target a variance of a draw that is known otherwise, and its degrees of freedom (`scales`).
    """
    count = next((len(v) for draws in found for v in draws.values()), 0)
    far: list[set[int]] = [set() for _ in found]
    for target in range(count):
        known = (0.0, 0.0) if expected is None else (float(expected[0][target]), float(expected[1][target]))
        groups = [np.array([draws[draw][target] for draw in sorted(draws)]) for draws in found]
        for arm, place in _far_of_target(groups, known, USUAL_RATE / count):
            far[arm].add(sorted(found[arm])[place])
    return far


def _far_of_target(groups: Sequence[np.ndarray], known: tuple[float, float], rate: float) -> list[tuple[int, int]]:
    """(arm, place) of the draws that are more likely far off than not; `groups`: an arm's losses each.

    Those that look suspicious are left out at first and let in again one by one, the nearest first, as long as a usual
    draw explains them better: so two catastrophes do not hide each other in the spread that they make themselves.
    """
    scale = _scale_of_pairs(groups)
    if not scale > 0:
        return []
    apart = {(k, i): y - _low_middle(ys) for k, ys in enumerate(groups) for i, y in enumerate(ys)}
    suspects = sorted((key for key, distance in apart.items() if distance > SUSPECT * scale), key=apart.__getitem__)
    kept = [np.array([y for i, y in enumerate(ys) if (k, i) not in suspects]) for k, ys in enumerate(groups)]
    for number, (k, i) in enumerate(suspects):
        if _is_far(float(groups[k][i]), kept, k, known, rate):
            return suspects[number:]
        kept[k] = np.append(kept[k], groups[k][i])
    return []


def _is_far(loss: float, kept: Sequence[np.ndarray], arm: int, known: tuple[float, float], rate: float) -> bool:
    """Whether a loss is more likely far off than a usual draw of its arm, given the usual draws of all.

    A usual draw is Student: its arm's variance is drawn from that of all arms, which is not known well either.
    """
    squares, freedom = _within(kept)
    freedom += known[1]
    own, more = _within([kept[arm]])
    if freedom <= 0:
        return False
    variance = (squares + known[0] * known[1]) / freedom
    spread = (OWN * variance + own) / (OWN + more)
    if not spread > 0:
        return loss > kept[arm].mean()
    distance = (loss - kept[arm].mean()) / np.sqrt(spread * (1 + 1 / len(kept[arm])))
    degrees = 1 / (1 / (OWN + more) + 1 / freedom)
    usual = np.exp(special.gammaln((degrees + 1) / 2) - special.gammaln(degrees / 2)) / np.sqrt(degrees * np.pi)
    usual *= (1 + distance**2 / degrees) ** (-(degrees + 1) / 2)
    return bool(distance > FAR and rate * FAR / distance**2 > (1 - rate) * usual)


def _scale_of_pairs(groups: Sequence[np.ndarray]) -> float:
    """SD of a draw from the median distance of two draws of an arm, which a few draws far off hardly move; 0 without
    pairs."""
    pairs = [np.abs(ys[:, None] - ys)[np.triu_indices(len(ys), 1)] for ys in groups if len(ys) > 1]
    return float(np.median(np.concatenate(pairs))) / (np.sqrt(2) * NORMAL_MEDIAN) if pairs else 0.0


def _low_middle(losses: np.ndarray) -> float:
    return float(np.sort(losses)[(len(losses) - 1) // 2])


def _within(groups: Sequence[np.ndarray]) -> tuple[float, float]:
    """(sum of squares within arms, its degrees of freedom)."""
    filled = [ys for ys in groups if len(ys)]
    return float(sum(((ys - ys.mean()) ** 2).sum() for ys in filled)), float(sum(len(ys) - 1 for ys in filled))
