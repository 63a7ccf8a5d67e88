"""How many more sets would settle which source to use, and how likely it is that no affordable number does.

The answer is averaged over what is not known: from each of many draws of the true values, further sets are drawn, and
the posterior that they would give is asked for its answer (`analysis.estimates.equivalence`). A gap that looks large by
luck is small in most draws, so it promises no more than it can keep. Of the further sets some are far off, as often as
the sets at hand allow, and tell nothing of their source, and as many again are lost on finding out which these are (one
set in ten far off, 6 sources x 10 sets: without that .84 were stated and .73 true). Variances are estimated anew,
and borrow from one another as they do now.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.estimates.equivalence import LEVEL
from analysis.estimates.posterior import PRIOR, RATIOS, Posterior, log_centres
from analysis.estimates.spreads import FAR, seed_of

OPTIONS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100)  # more sets of each source
WANTED = 0.8  # the usual power
# What is sought beyond it, as among unlike sources an answer came this much less often than expected. Of two it came
# more often: with no third one their variances have the heaviest tails, and studies without an answer are those whose
# spread is high by luck. Sought with .84 there, it came in .94 to 1.00 of six designs, with .65 in .68 to .98.
CARE, CARE_TWO = 0.04, -0.1
OUTER, INNER = 160, 160
LOST = 2.0  # further sets that a set which is far off costs: itself, and another to tell it from the usual ones


@dataclass(frozen=True)
class Settling:
    """`sets` more of each source settle it with probability `wanted` or more; `most` more leave it open with `never`.

    `sets` is None where no option reaches the wanted probability. `chance`: what is expected of `sets`, or of `most`.
    `several`: in how many of the cases that are settled several sources will do; NaN where none is.
    """

    sets: int | None
    wanted: float
    chance: float
    most: int
    never: float
    several: float


def settling(known: Posterior, matters: float, level: float = LEVEL, wanted: float = WANTED) -> Settling:
    """The fewest further sets of each source after which an answer can be given with the wanted probability."""
    rng = seed_of(known.truth[:1], np.array([matters]))
    picked = np.linspace(0, len(known.truth) - 1, OUTER).astype(int)
    last = len(OPTIONS) - 1
    sought = min(wanted + (CARE if len(known.counts) > 2 else CARE_TWO), 1.0)
    longest = _settled(known, picked, OPTIONS[last], matters, level, rng)[0]
    enough = longest >= sought
    below, first = -1, last  # more sets never unsettle, so the first option that is enough is found by halving
    while enough and first - below > 1:
        middle = (below + first) // 2
        reached = _settled(known, picked, OPTIONS[middle], matters, level, rng)[0] >= sought
        below, first = (below, middle) if reached else (middle, first)
    # Asked again with other draws: the first option that reaches the mark does so by luck as well.
    again = np.linspace(0, len(known.truth) - 1, OUTER + 2).astype(int)[1:-1]
    chance, several = _settled(known, again, OPTIONS[first], matters, level, rng)
    # More sets have no smaller chance, and what is said of `sets` holds of `most`: the two sentences never disagree.
    never = float(1 - (chance if first == last else max(chance, longest)))
    never = min(never, 1 - wanted) if enough else max(never, 1 - wanted)
    share = several / chance if chance else float("nan")
    return Settling(OPTIONS[first] if enough else None, wanted, chance, OPTIONS[-1], never, share)


def _settled(
    known: Posterior, picked: np.ndarray, more: int, matters: float, level: float, rng: np.random.Generator
) -> tuple[float, float]:
    """How often the posterior after `more` further sets of each source gives an answer, and one of several sources."""
    truth, variance = known.truth[picked], known.variance[picked]
    centre, count, scale = known.spreads.centre[picked], known.spreads.count[picked], known.spreads.scale[picked]
    seen = variance / count + known.noise
    share = known.noise / seen  # of the distance to the truth, what the examples brought: further sets keep it
    luck = share * (centre - truth) + np.sqrt(known.noise * (1 - share)) * rng.standard_normal(truth.shape)
    kept = rng.binomial(more, np.maximum(1 - LOST * _far_shares(known, rng), 0))
    new = truth + luck + np.sqrt(variance / np.maximum(kept, 1)) * rng.standard_normal(truth.shape)
    sets = count + kept
    centre = (count * centre + kept * new) / sets
    freedom = np.maximum(sets - 1, 1)
    estimate = variance * rng.chisquare(freedom) / freedom
    # The study to come borrows from other sources as this one does: with as many degrees of freedom as they are alike.
    like = known.spreads.likeness[picked][:, None]
    estimate = (like * scale[:, None] + freedom * estimate) / (like + freedom)
    freedom = freedom + like
    error = estimate / sets + known.noise
    between = RATIOS**2 * scale[:, None]
    log_weight = PRIOR + log_centres(centre, error, between)
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True)).cumsum(axis=1)
    place = (weight[:, None, :] < rng.random((OUTER, INNER, 1)) * weight[:, None, -1:]).sum(axis=2)
    tau = np.take_along_axis(between, place, axis=1)[:, :, None]  # (outer, inner, 1)
    pivot = freedom[:, None, :] / rng.chisquare(freedom[:, None, :], (OUTER, INNER, truth.shape[1]))
    error, centre = (estimate / sets)[:, None, :] * pivot + known.noise, centre[:, None, :]
    precision = 1 / (error + tau)
    total = precision.sum(axis=2)
    middle = (precision * centre).sum(axis=2) / total + rng.standard_normal(total.shape) / np.sqrt(total)
    own = tau / (tau + error)
    drawn = own * centre + (1 - own) * middle[:, :, None] + np.sqrt(own * error) * rng.standard_normal(own.shape)
    near = drawn.max(axis=2, keepdims=True) - drawn <= matters
    chance = near.mean(axis=1)  # (outer, sources)
    two = np.argsort(chance, axis=1)[:, -2:]
    together = np.take_along_axis(near, two[:, None, :], axis=2).all(axis=2).mean(axis=1)
    return float((chance.max(axis=1) >= level).mean()), float((together >= level).mean())


def _far_shares(known: Posterior, rng: np.random.Generator) -> np.ndarray:
    """How often a new set of each source is far off, a draw for each study to come, [outer, sources]."""
    far = np.array([float(chance.sum()) for chance in known.spreads.far])
    total = np.array([len(chance) for chance in known.spreads.far])
    return rng.beta(FAR[0] + far, FAR[1] + total - far, (OUTER, len(far)))
