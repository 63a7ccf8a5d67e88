"""What is known of the sources' true values, in one object from which every probability about sources is taken.

A source's value is the centre of its sets (`analysis.estimates.spreads`: a variance per source, sets that are far off
set apart), and sources are a sample as well: true_s = middle + a draw with variance τ². The best of several means is
best partly by luck, so each mean is drawn towards the others by as much as the data allow, and a pair that is spoken of
because it leads is taken from here, never from its raw gap. τ is integrated on a grid with an atom at zero, where no
source differs from another: without it the leader among equal sources looks better than the others for ever.

The hard case is sources that are exactly equal. Some source leads, and no prior makes its probability of being the best
right for equal sources and for unlike ones alike. `differ` is how much better the values are explained by sources that
differ; where it is not above `STRONG`, `tells` is false, and whoever prints such a probability says so instead.

`noise` is variance of a source's value that no number of sets removes: the luck of the test examples. With it the
object speaks of the task, without it of these examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.estimates.spreads import DRAWS, FEW, Spreads, seed_of, spreads

RATIOS = np.append(0.0, np.exp(np.linspace(np.log(0.15), np.log(60.0), 29)))  # τ in SDs of a set
SAME = 0.1  # prior probability that no source differs from another
STRONG = 10.0  # strong evidence (Jeffreys 1961); 2 of 1,250 simulated studies of equal sources reach it
PRIOR = np.append(np.log(SAME), np.full(29, np.log((1 - SAME) / 29)))


@dataclass(frozen=True)
class Posterior:
    """Draws of the true values of the sources, larger is better; one column per source.

    truth:    float64 [draws, sources].
    variance: float64 [draws, sources], of one set around the value of its source.
    middle:   float64 [draws], the value that sources gather around; `between` their variance, [draws].
    noise:    variance of a source's value that no number of sets removes.
    counts:   sets of each source.
    differ:   Bayes factor: how much more likely the values are where sources differ than where none does.
    """

    truth: np.ndarray
    variance: np.ndarray
    middle: np.ndarray
    between: np.ndarray
    noise: float
    counts: tuple[int, ...]
    spreads: Spreads
    differ: float

    @property
    def tells(self) -> bool:
        """Whether the sets clearly speak for a difference of the sources, and so for a best one.

        Where no source has three sets they never do: two say so little about a spread that a source looks calm by luck
        (six sources x 2 sets: a P(best) of .94 came true in .71 of studies).
        """
        return max(self.counts) >= FEW and self.differ > STRONG

    @property
    def best(self) -> np.ndarray:
        """Probability of each source to be the best; sources that do not differ share it."""
        return _winners(self.truth)

    @property
    def best_single_set(self) -> np.ndarray:
        """Probability of each source that one new set of it beats one of every other source."""
        return _winners(self.new_sets())

    def new_sets(self) -> np.ndarray:
        """One new set of each source per draw, float64 [draws, sources]."""
        rng = seed_of(self.truth[:1])
        return np.asarray(self.truth + np.sqrt(self.variance) * rng.standard_normal(self.truth.shape))

    @property
    def regret(self) -> np.ndarray:
        """How far each source is from the best, float64 [draws, sources]."""
        return np.asarray(self.truth.max(axis=1, keepdims=True) - self.truth)

    def wins(self, a: int, b: int, examples: float = 0.0) -> float:
        """Probability that one new set of source a beats one of b; `examples` is variance of the gap on a new test."""
        gap = self.truth[:, a] - self.truth[:, b]
        spread = np.sqrt(self.variance[:, a] + self.variance[:, b] + examples)
        return float(special.ndtr(gap / spread).mean())

    def gap(self, a: int, b: int, level: float = 0.95) -> tuple[float, float, float]:
        """(mean, low, high) of how much better source a is than b."""
        difference = self.truth[:, a] - self.truth[:, b]
        low, high = np.quantile(difference, [(1 - level) / 2, (1 + level) / 2])
        return float(difference.mean()), float(low), float(high)

    def near_best(self, matters: float) -> np.ndarray:
        """Whether each source is within `matters` of the best, bool [draws, sources]."""
        return np.asarray(self.regret <= matters)


def posterior(groups: Sequence[np.ndarray], noise: float = 0.0, draws: int = DRAWS) -> Posterior:
    """What the values of the sets (per source float64 [sets], larger is better) say of the sources.

    The draws are seeded by the data. Raises ValueError where no two sets of a source differ, or for one source.
    """
    if len(groups) < 2:
        raise ValueError(f"{len(groups)} source: a comparison needs two")
    groups = [np.asarray(group, float) for group in groups]
    rng = seed_of(*groups)
    first = spreads(groups, rng, draws)
    error = first.variance / first.count + noise
    between = RATIOS**2 * first.scale[:, None]  # (draws, ratios)
    log_likelihood = log_centres(first.centre, error, between)
    log_weight = PRIOR + log_likelihood
    log_density = special.logsumexp(log_weight, axis=1)
    # The centres say something of their errors too: draws are taken again in proportion to it.
    chosen = _resample(np.exp(log_density - log_density.max()), rng)
    kept = Spreads(
        first.centre[chosen],
        first.count[chosen],
        first.variance[chosen],
        first.scale[chosen],
        first.likeness[chosen],
        first.far,
    )
    error = error[chosen]
    weight = np.exp(log_weight[chosen] - log_density[chosen, None]).cumsum(axis=1)
    place = (weight < rng.random((draws, 1)) * weight[:, -1:]).sum(axis=1)
    tau = between[chosen, place][:, None]
    precision = 1 / (error + tau)
    total = precision.sum(axis=1)
    middle = (precision * kept.centre).sum(axis=1) / total + rng.standard_normal(draws) / np.sqrt(total)
    own = tau / (tau + error)  # how far a source stands on its own sets
    spread = np.sqrt(own * error)
    truth = own * kept.centre + (1 - own) * middle[:, None] + spread * rng.standard_normal(error.shape)
    counts = tuple(len(group) for group in groups)
    unlike = special.logsumexp(log_likelihood[:, 1:]) - np.log(len(RATIOS) - 1)
    differ = float(np.exp(np.clip(unlike - special.logsumexp(log_likelihood[:, 0]), -700, 700)))
    return Posterior(truth, kept.variance, middle, tau[:, 0], noise, counts, kept, differ)


def log_centres(centre: np.ndarray, error: np.ndarray, between: np.ndarray) -> np.ndarray:
    """Log density of the centres for each variance between sources, their middle integrated out, [draws, ratios]."""
    one = np.zeros_like(between)
    first, second, logs = one.copy(), one.copy(), one.copy()
    total = one.copy()
    for value, spread in zip(centre.T, error.T, strict=True):  # source by source: no [draws, ratios, sources] array
        variance = between + spread[:, None]
        weight = 1 / variance
        total += weight
        first += weight * value[:, None]
        second += weight * value[:, None] ** 2
        logs += np.log(variance)
    return np.asarray(-(logs + np.log(total) + second - first**2 / total) / 2)


def _resample(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many indices as weights, each about as often as its weight says (systematic resampling)."""
    n = len(weight)
    edges = weight.cumsum() / weight.sum()
    return np.searchsorted(edges, (np.arange(n) + rng.random()) / n).clip(max=n - 1)


def _winners(values: np.ndarray) -> np.ndarray:
    """Share of rows in which each column is the largest; ties are shared."""
    top = values == values.max(axis=1, keepdims=True)
    return np.asarray((top / top.sum(axis=1, keepdims=True)).mean(axis=0))
