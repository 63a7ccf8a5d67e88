"""The adviser on simulated sources (`benchmarks.adviser.worlds`), beside sequential halving and even draws."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from benchmarks.adviser.play import Played, advise, even, sequential_halving
from benchmarks.adviser.worlds import World, sources
from sweep.adviser.outcomes import Costs, Rules

SETS = 12  # of a full study
SHARE = 0.25  # of its time
COSTS = Costs(screen=0.125, full=1.0)


@dataclass(frozen=True)
class Repetition:
    """One world, played: regret of each policy in SDs of a draw, and what the adviser said."""

    played: Played
    regret: dict[str, float]


def repeat(world: World, seed: int) -> Repetition:
    """New sources, and what each policy chooses of them at a quarter of a full study's time."""
    rng = np.random.default_rng([zlib.crc32(world.name.encode()), seed])
    found = sources(world, SETS, rng)
    rules = Rules(budget=SHARE * SETS * world.arms, draws=SETS)
    played = advise(found.low[:, :, None], found.high[:, :, None], rules, COSTS)
    chosen = {
        "adviser": played.arm,
        "sequential halving": sequential_halving(found.high, int(rules.budget)),
        "even draws": even(found.high, int(rules.budget)),
        "halving on screens": sequential_halving(found.low, int(rules.budget / COSTS.screen)),
    }
    best = found.truth.min()
    regret = {name: float(found.truth[arm] - best) for name, arm in chosen.items()}
    regret["random source"] = float(found.truth[np.isfinite(found.truth)].mean() - best)
    return Repetition(played, regret)
