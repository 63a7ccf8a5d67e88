"""Use this source, any of these will do, or cannot tell yet: the answer when only a difference of some size matters.

A source will do when it is within `matters` of the best one. The answer names as many sources as will all do together
with the wanted probability; it is "cannot tell yet" when not even one does. The probabilities are those of the joint
posterior, so that naming the leader because it leads costs nothing. The hard case is a source that is not named: most
often these sets cannot tell of it, and only one that will do with little probability is ruled out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.estimates.posterior import Posterior

LEVEL = 0.9  # an answer is given when it is right with this probability
USE, ANY, UNCLEAR = "use", "any", "cannot tell yet"


@dataclass(frozen=True)
class Answer:
    """`kind` is USE, ANY or UNCLEAR; `sources` are those it names, best first (the leader alone when unclear).

    probability: that all named sources are within `matters` of the best.
    one:         that the first of them is.
    every:       that all sources of the study are: nothing to choose.
    ruled_out:   sources that will do with a probability of at most 1 - level; the others that are not named may.
    """

    kind: str
    sources: tuple[int, ...]
    probability: float
    one: float
    every: float
    matters: float
    ruled_out: tuple[int, ...]


def answer(known: Posterior, matters: float, level: float = LEVEL) -> Answer:
    """The answer for a difference that matters, in the unit of the values. Raises ValueError unless it is above 0."""
    if not matters > 0:
        raise ValueError(f"a difference that matters is above 0, got {matters}")
    near = known.near_best(matters)
    chance = near.mean(axis=0)
    # Sources that will do alike are told apart by their expected regret.
    order = np.lexsort((known.regret.mean(axis=0), -chance))
    together = np.logical_and.accumulate(near[:, order], axis=1).mean(axis=0)
    named = max(int((together >= level).sum()), 1)
    kind = UNCLEAR if together[0] < level else (USE if named == 1 else ANY)
    sources = tuple(int(index) for index in order[:named])
    ruled_out = tuple(int(index) for index in np.flatnonzero(chance <= 1 - level))
    probability, one, every = (float(together[index]) for index in (named - 1, 0, -1))
    return Answer(kind, sources, probability, one, every, matters, ruled_out)
