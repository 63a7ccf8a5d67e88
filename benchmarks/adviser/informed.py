"""A bound: who is told what a run cannot know chooses a source with the same trials.

It knows the law that the sources come from (on each target the mean, the SD and the correlation of true screens with
true full losses) and the covariance of the luck of draws over targets and fidelities. Given these everything is
Gaussian: its posterior is exact but for the shape of the luck. After `SCREENS` screens of every source it buys one full
draw at a time, of the leader or of the source from which most can be hoped for, whichever has fewer. What it loses, a
quarter of a study does not tell to anyone who looks at each target by itself.
"""

from __future__ import annotations

import numpy as np

SCREENS = 3
STEP, LAST = 300, 1000  # draws of the posterior for a choice of a trial, and for that of a source


def informed(low: np.ndarray, high: np.ndarray, seen: np.ndarray, trials: float, screen: float, seed: int) -> int:
    """The source that is chosen.

    low, high: float64 [sources, sets, targets], all that there is, from which the laws are taken. seen: int [sources,
    n], the sets that come as draws. trials: what full trials would use up the budget; screen: cost of one, in these.
    """
    both = np.concatenate([low, high], axis=2)  # [sources, sets, fidelities x targets]
    truth = both.mean(axis=1)
    luck = (both - truth[:, None]).reshape(-1, both.shape[2])
    within = luck.T @ luck / len(luck)
    level = truth.mean(axis=0)
    same = np.kron(np.ones((2, 2)), np.eye(low.shape[2]))  # of the sources' covariance what one target shows
    between = same * ((truth - level).T @ (truth - level)) / (len(truth) - 1)
    game = _Game(both[np.arange(len(both))[:, None], seen], level, between, within, np.random.default_rng([19, seed]))
    left = trials - len(both) * SCREENS * screen
    while left >= 1:
        game.buy(game.wanted())
        left -= 1
    return int(_loss(game.posterior(LAST)).mean(axis=0).argmin())


class _Game:
    """What was seen of draws [sources, n, fidelities x targets]: screens of the first, and `full[k]` full draws."""

    def __init__(
        self, draws: np.ndarray, level: np.ndarray, between: np.ndarray, within: np.ndarray, rng: np.random.Generator
    ) -> None:
        self.draws, self.level, self.within, self.rng = draws, level, within, rng
        self.full = np.zeros(len(draws), int)
        self.prior = np.linalg.inv(between + 1e-6 * np.eye(len(level)))

    def buy(self, source: int) -> None:
        self.full[source] += 1

    def wanted(self) -> int:
        """The leader, or the source from which most can be hoped for against it."""
        loss = _loss(self.posterior(STEP))
        lead = int(loss.mean(axis=0).argmin())
        hope = np.maximum(loss[:, [lead]] - loss, 0).mean(axis=0)
        other = int(hope.argmax())
        chosen = lead if self.full[lead] < self.full[other] else other
        return chosen if self.full[chosen] < self.draws.shape[1] else int(self.full.argmin())

    def posterior(self, count: int) -> np.ndarray:
        """True full losses, [count, sources, targets]."""
        targets = len(self.level) // 2
        found = []
        for source in range(len(self.draws)):
            precision, weighed = self.prior.copy(), self.prior @ self.level
            for number in range(max(SCREENS, self.full[source])):
                kept = np.r_[
                    np.arange(targets) if number < SCREENS else [],
                    np.arange(targets, 2 * targets) if number < self.full[source] else [],
                ].astype(int)
                inverse = np.linalg.inv(self.within[np.ix_(kept, kept)])
                precision[np.ix_(kept, kept)] += inverse
                weighed[kept] += inverse @ self.draws[source, number, kept]
            covariance = np.linalg.inv(precision)
            mean = covariance @ weighed
            root = np.linalg.cholesky(covariance[targets:, targets:] + 1e-12 * np.eye(targets))
            found.append(mean[targets:] + self.rng.standard_normal((count, targets)) @ root.T)
        return np.stack(found, axis=1)


def _loss(truth: np.ndarray) -> np.ndarray:
    """The worst regret over targets, or the loss on one, [count, sources]."""
    return truth[:, :, 0] if truth.shape[2] == 1 else (truth - truth.min(axis=1, keepdims=True)).max(axis=2)
