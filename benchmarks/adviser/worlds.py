"""Simulated sources whose every truth is known. It shares no formula with `sweep.adviser`.

The unit is the SD of a usual full draw. A draw is seen at two fidelities: its full loss, and its screen, whose level
and scale are others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

SCREEN_LEVEL, SCREEN_SCALE = 3.0, 1.4  # of screens against full losses: an adviser must not assume them alike
MOST = 10.0  # SD of sources beyond which nothing is left to be found out
LUCK = 0.6  # correlation of a draw's luck at the two fidelities


@dataclass(frozen=True)
class World:
    """arms: sources; between: SD of their true losses; rho: correlation of true screens with true full losses.

    unlike: SDs of a draw lie evenly in the logarithm between 1 / unlike and unlike times their usual value.
    tail:   degrees of freedom of Student draws, scaled to the same SD; None: normal draws.
    far:    how often a draw is 10 SDs worse. broken: number of arms whose trials all fail.
    drawn:  each set of sources has its own SD, of a half-Cauchy law of scale `between` that is cut at `MOST`, and its
            own rho, anything between 0 and 1.
    """

    name: str
    arms: int
    between: float
    rho: float
    unlike: float = 1.0
    tail: float | None = None
    far: float = 0.0
    broken: int = 0
    drawn: bool = False


@dataclass(frozen=True)
class Sources:
    """One set of sources. truth: float64 [arms]; low, high: float64 [arms, draws], NaN where a trial fails."""

    truth: np.ndarray
    low: np.ndarray
    high: np.ndarray


def sources(world: World, draws: int, rng: np.random.Generator) -> Sources:
    """New sources and `draws` draws of each. The truth is the mean of draws that are not far off; broken arms: inf."""
    k = world.arms
    if world.drawn:
        between = min(world.between * abs(rng.standard_cauchy()), MOST)
        world = replace(world, between=between, rho=rng.random(), drawn=False)
    high, other = rng.standard_normal((2, k))
    truth = world.between * high
    screen = world.between * (world.rho * high + np.sqrt(1 - world.rho**2) * other)
    sd = np.exp(np.log(world.unlike) * rng.permutation(np.linspace(-1, 1, k)))[:, None]
    luck = rng.standard_normal((2, k, draws))
    if world.tail is not None:
        luck = luck / np.sqrt(rng.chisquare(world.tail, (1, k, draws)) / (world.tail - 2))
    far = 10.0 * (rng.random((k, draws)) < world.far)
    e = luck[0]
    f = LUCK * luck[0] + np.sqrt(1 - LUCK**2) * luck[1]
    seen_high = truth[:, None] + sd * e + far
    seen_low = SCREEN_LEVEL + SCREEN_SCALE * (screen[:, None] + sd * f + far)
    if world.broken:
        out = rng.permutation(k)[: world.broken]
        truth = truth.copy()
        truth[out], seen_high[out], seen_low[out] = np.inf, np.nan, np.nan
    return Sources(truth, seen_low, seen_high)


WORLDS = (
    *(World(f"{k} equal sources", k, 0, 0.8) for k in (5, 8, 20)),
    World("8 equal sources, spreads 1:9", 8, 0, 0.8, unlike=3),
    World("8 equal sources, one draw in ten far off", 8, 0, 0.8, far=0.1),
    World("8 sources, SD and rho drawn", 8, 1, 0.8, drawn=True),
    *(World(f"8 sources, SD {b:g}, rho {r:g}", 8, b, r) for b in (0.3, 1, 3) for r in (0.6, 0.95)),
    *(World(f"8 sources, SD {b:g}, spreads 1:9", 8, b, 0.8, unlike=3) for b in (0.3, 1, 3)),
    *(World(f"8 sources, SD {b:g}, Student draws (3)", 8, b, 0.8, tail=3) for b in (0.3, 1, 3)),
    *(World(f"8 sources, SD {b:g}, one draw in ten far off", 8, b, 0.8, far=0.1) for b in (0.3, 1, 3)),
    World("8 sources, SD 1, rho 0.2", 8, 1, 0.2),
    World("9 sources, SD 1, one fails always", 9, 1, 0.8, broken=1),
    *(World(f"20 sources, SD {b:g}, rho {r:g}", 20, b, r) for b in (1, 0.3, 3) for r in (0.6, 0.95)),
    *(World(f"{k} sources, SD 1, spreads 1:4", k, 1, 0.8, unlike=2) for k in (5, 20)),
    *(World(f"{k} sources, SD {b:g}, rho {r:g}", k, b, r) for k in (5, 12) for b in (0.3, 1, 3) for r in (0.6, 0.95)),
)
