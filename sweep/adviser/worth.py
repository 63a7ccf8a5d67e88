"""What further draws are worth: the expected regret now, and as it would be after more draws (preposterior analysis).

The posterior draws stand for what may be true. For each, the draws to come are simulated, every arm's expected loss is
updated as for a Gaussian with the posterior's covariance, and the arm that would then be chosen is charged its regret.
"""

from __future__ import annotations

import numpy as np

from sweep.adviser.posterior import Belief

SEED = 19  # of the draws to come: the same for every plan, so that plans are compared on equal luck


def regret_now(belief: Belief) -> float:
    """Expected regret of the leader."""
    return float(belief.expected_regret[belief.leader])


def regret_after(belief: Belief, more: np.ndarray) -> float:
    """Expected regret once each arm has `more` further full draws (float [arms]), chosen among arms with full draws."""
    arms = np.flatnonzero(belief.alive)
    loss, more = belief.loss[:, arms], np.asarray(more, float)[arms]
    tried = np.array([len(belief.seen.full[arm]) > 0 for arm in arms]) | (more > 0)
    asked = np.flatnonzero(more > 0)
    if not len(asked):
        return regret_now(belief)
    mean = loss.mean(axis=0)
    covariance = (loss - mean).T @ (loss - mean) / (len(loss) - 1)
    noise = draw_variance(belief)[:, arms][:, asked] / more[asked]  # [draws, asked]
    seen = covariance[np.ix_(asked, asked)] + np.diag(noise.mean(axis=0))
    gain = np.linalg.solve(seen, covariance[asked]).T
    luck = np.random.default_rng(SEED).standard_normal(noise.shape) * np.sqrt(noise)
    then = mean + (loss[:, asked] + luck - mean[asked]) @ gain.T
    chosen = np.where(tried, then, np.inf).argmin(axis=1)
    return float((loss[np.arange(len(loss)), chosen] - loss.min(axis=1)).mean())


def draw_variance(belief: Belief) -> np.ndarray:
    """Variance of one draw of each arm in the unit of the loss, the mean over targets, float64 [draws, arms]."""
    return np.asarray(((belief.spread / belief.unit) ** 2).mean(axis=2))
