"""Mixtures of sources, searched: which weights to try, what their losses say of all weights, and which to confirm.

The loss on a target is a Scheffé quadratic in the weights p of m sources, y(p) = Σ b_i p_i + Σ_{i<j} b_ij p_i p_j
(Scheffé 1958, JRSS B 20(2)), fitted on the simplex lattice {m, 2} (every source alone and every pair in halves) and on
checks inside. The mixture to propose minimises the worst regret over targets, regret being what is lost against the
best single source of that target as the same surface sees it.

The hard case is noise: a lattice has nearly as many coefficients as points, so the interactions are drawn towards none
by as much as predicts points left out best. And the minimum of a fitted surface looks better than it is: a proposed
mixture is a candidate, an arm that must prove itself on fresh sets beside the uniform mixture.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import optimize

RIDGES = np.append(10.0 ** np.linspace(-6, 3, 19), 1e9)  # penalties of interactions; the last leaves a linear surface
ALIKE = 0.05  # proposals whose weights differ by less, in total variation, are one


@dataclass(frozen=True)
class Surface:
    """Fitted losses: `linear` float64 [sources, targets], `pairs` float64 [pairs, targets] in the order of (0, 1),
    (0, 2), ..., (1, 2), ...; `error` [targets], root mean square of the predictions of points left out."""

    linear: np.ndarray
    pairs: np.ndarray
    error: np.ndarray

    def predict(self, weights: np.ndarray) -> np.ndarray:
        """Losses [points, targets] of weights [points, sources]."""
        weights = np.atleast_2d(weights)
        return np.asarray(weights @ self.linear + _products(weights) @ self.pairs)

    def regret(self, weights: np.ndarray, unit: np.ndarray | float = 1.0) -> np.ndarray:
        """What is lost against each target's best single source, in `unit` of each target, [points, targets]."""
        return np.asarray((self.predict(weights) - self.linear.min(axis=0)) / unit)


def lattice(sources: int) -> np.ndarray:
    """Every source alone, then every pair in halves: float64 [m (m + 1) / 2, m]."""
    halves = [(np.eye(sources)[i] + np.eye(sources)[j]) / 2 for i, j in combinations(range(sources), 2)]
    return np.vstack([np.eye(sources), *halves])


def checks(sources: int) -> np.ndarray:
    """The uniform mixture, then for every source the midpoint between it and the uniform: float64 [m + 1, m]."""
    uniform = np.full(sources, 1 / sources)
    return np.vstack([uniform, (np.eye(sources) + uniform) / 2])


def fit(weights: np.ndarray, losses: np.ndarray) -> Surface:
    """The surface of each target from weights [points, sources] and losses [points, targets]; points may repeat.

    Raises ValueError where a row of weights is no mixture, or a source was in none of them.
    """
    weights, losses = np.asarray(weights, float), np.asarray(losses, float)
    if (weights < 0).any() or not np.allclose(weights.sum(axis=1), 1):
        raise ValueError("weights: expected rows of numbers of at least 0 whose sum is 1")
    if losses.ndim != 2 or len(losses) != len(weights) or not np.isfinite(losses).all():
        raise ValueError(f"losses: expected finite numbers [{len(weights)}, targets], got shape {losses.shape}")
    if np.linalg.matrix_rank(weights) < weights.shape[1]:
        raise ValueError(f"{len(weights)} points do not tell {weights.shape[1]} sources apart: try each alone first")
    parts = [_one(weights, losses[:, target]) for target in range(losses.shape[1])]
    linear, pairs, error = zip(*parts, strict=True)
    return Surface(np.stack(linear, axis=1), np.stack(pairs, axis=1), np.array(error))


def propose(surface: Surface, count: int = 1, unit: np.ndarray | float = 1.0, step: float | None = None) -> np.ndarray:
    """The mixtures of least predicted worst regret, best first, at most `count`, float64 [proposals, sources].

    unit: of each target, so that regrets compare. step: weights are multiples of it (1 / nsamples: whole windows).
    """
    m = len(surface.linear)
    starts = np.vstack([checks(m), np.eye(m)])
    found = [_descend(surface, start, unit) for start in starts]
    if step is not None:
        found = [rounded(weights, step) for weights in found]
    found.sort(key=lambda weights: float(surface.regret(weights, unit).max()))
    kept: list[np.ndarray] = []
    for weights in found:
        if all(np.abs(weights - other).sum() / 2 >= ALIKE for other in kept):
            kept.append(weights)
    return np.array(kept[:count])


def rounded(weights: np.ndarray, step: float) -> np.ndarray:
    """Weights as multiples of `step` that sum to 1: largest remainders are rounded up, ties in order.

    Raises ValueError unless 1 is a multiple of `step`.
    """
    parts = round(1 / step)
    if parts < 1 or abs(parts * step - 1) > 1e-9:
        raise ValueError(f"step: expected 1 divided by a whole number, got {step}")
    whole = np.floor(weights * parts + 1e-9)
    rest = np.argsort(-(weights * parts - whole), kind="stable")[: parts - int(whole.sum())]
    whole[rest] += 1
    return np.asarray(whole / parts)


def _products(weights: np.ndarray) -> np.ndarray:
    """p_i p_j of all pairs, [points, pairs]."""
    pairs = list(combinations(range(weights.shape[1]), 2))
    return np.stack([weights[:, i] * weights[:, j] for i, j in pairs], axis=1)


def _one(weights: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """(linear, pairs, error of points left out) of one target."""
    design = np.hstack([weights, _products(weights)])
    m = weights.shape[1]
    found = []
    for ridge in RIDGES:
        penalty = np.diag(np.append(np.zeros(m), np.full(design.shape[1] - m, ridge)))
        inverse = np.linalg.pinv(design.T @ design + penalty, hermitian=True)
        coefficients = inverse @ design.T @ losses
        leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
        left_out = (losses - design @ coefficients) / np.maximum(1 - leverage, 1e-6)
        found.append((left_out**2, coefficients))
    least = min((squares for squares, _ in found), key=np.mean)
    enough = least.mean() + least.std() / np.sqrt(
        len(least)
    )  # the simplest surface within a standard error of the best
    squares, best = next(pair for pair in reversed(found) if pair[0].mean() <= enough)
    return best[:m], best[m:], float(np.sqrt(squares.mean()))


def _descend(surface: Surface, start: np.ndarray, unit: np.ndarray | float) -> np.ndarray:
    """A local minimum of the worst regret on the simplex: least `worst` that no target's regret exceeds."""
    m = len(start)
    first = np.append(start, surface.regret(start, unit).max())
    done = optimize.minimize(
        lambda x: x[-1],
        first,
        jac=lambda x: np.append(np.zeros(m), 1.0),
        bounds=[(0.0, 1.0)] * m + [(None, None)],
        constraints=[
            {"type": "ineq", "fun": lambda x: x[-1] - surface.regret(x[:-1], unit)[0]},
            {"type": "eq", "fun": lambda x: x[:-1].sum() - 1},
        ],
        method="SLSQP",
        options={"maxiter": 200},
    )
    weights = np.clip(done.x[:-1], 0, None)
    weights /= weights.sum()
    better = surface.regret(weights, unit).max() <= first[-1]  # a search that failed gives back where it began
    return np.asarray(weights if better else start)
