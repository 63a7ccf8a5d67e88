"""What outcomes at two fidelities say of the arms' true losses: joint draws from which every statement is taken.

An arm has a true mean at each fidelity, (low, high) ~ N(g, [[τ_L², ρτ_Lτ_H], [ρτ_Lτ_H, τ_H²]]) with a flat prior on
the levels g. Its draws scatter around that with SDs s_L and s_H times an arm's own factor (variances are drawn towards
the pool by as much as the arms look alike), and what makes a draw lucky at one fidelity makes it lucky at the other
with correlation r. Nothing about the relation of the fidelities is assumed known: τ_L, τ_H, ρ, r, s_L, s_H and the
arms' factors are drawn from proposals that the data suggest, weighted by the likelihood of the arms' centres
(importance sampling), and resampled. Given them everything is Gaussian. Who gets full draws is chosen by looking at
screens; that selection is harmless because all screens are in the likelihood.

Several targets are believed one by one; the luck of a draw is shared between them through the correlation of draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from sweep.adviser.evidence import FAR, USUAL_RATE, Evidence, evidence, stacked
from sweep.adviser.hierarchy import PRIOR, RATIOS, RHO, Proposals, kept
from sweep.adviser.outcomes import QUANTILE, Outcome, Rules
from sweep.adviser.scales import anticipated

DRAWS = 400  # of a posterior
PROPOSALS, ENOUGH = 3, 4000  # for each draw; and at least, since a tenth or less of them has weight
LUCK = (0.5, 0.6)  # mean and SD of the prior of atanh(r)
FREEDOMS = np.array([2.0, 4.0, 8.0, 16.0, 64.0])  # how alike the arms' variances are; 64: nearly equal
UNKNOWN = 1e6  # variance, in squared SDs, of a mean that was not observed
ALIKE = np.array(
    [3.0, 10.0, 30.0, 100.0, 300.0]
)  # pseudo-draws with the pool's rate of far-off draws: how alike arms are
ALONE = np.array(
    [0.03, 0.17, 0.46, 0.77, 0.91]
)  # likelihood of five such draws in five arms of twelve (docs/adviser.md)
PSEUDO = 10.0  # draws that the prior of the pool's rate, `USUAL_RATE`, counts for


@dataclass(frozen=True)
class Belief:
    """Joint posterior draws. Lower is better.

    loss:   float64 [draws, arms], what is minimised: one target's criterion, or the worst regret over targets.
    value:  float64 [draws, arms, targets], the criterion on each target in the unit of its losses.
    truth:  float64 [draws, arms, targets], mean full loss of an arm's usual draws.
    spread: float64 [draws, arms, targets], SD of one full draw.
    rate:   float64 [draws, arms], share of draws that fail or are far off.
    sd:     float64 [targets], SD of a usual full draw; `unit` of each target in `loss`, and `matters` in that unit.
    rho:    float64 [draws, targets], correlation of the arms' means at the two fidelities.
    alive:  bool [arms], arms with a usable draw; the others have infinite loss.
    """

    arms: tuple[str, ...]
    loss: np.ndarray
    value: np.ndarray
    truth: np.ndarray
    spread: np.ndarray
    rate: np.ndarray
    sd: np.ndarray
    unit: np.ndarray
    matters: float
    rho: np.ndarray
    alive: np.ndarray
    seen: Evidence

    @property
    def best(self) -> np.ndarray:
        """Probability of each arm to be the best, [arms]."""
        return np.bincount(self.loss.argmin(axis=1), minlength=len(self.arms)) / len(self.loss)

    @property
    def regret(self) -> np.ndarray:
        """How much worse each arm is than the best, float64 [draws, arms]."""
        return np.asarray(self.loss - self.loss.min(axis=1, keepdims=True))

    @property
    def expected_regret(self) -> np.ndarray:
        """Mean regret of choosing each arm, [arms]."""
        return np.asarray(self.regret.mean(axis=0))

    def near(self, matters: float) -> np.ndarray:
        """Probability of each arm to be within `matters` of the best, [arms]."""
        return np.asarray((self.regret <= matters).mean(axis=0))

    @property
    def leader(self) -> int:
        """The arm of least expected regret among those with full draws; among all where none has any."""
        tried = np.array([len(found) > 0 for found in self.seen.full])
        return int(np.where(tried if tried.any() else True, self.expected_regret, np.inf).argmin())


def believe(outcomes: Sequence[Outcome], arms: Sequence[str], rules: Rules, draws: int = DRAWS) -> Belief:
    """The joint posterior of the arms in `draws` draws, which the data seed.

    Raises ValueError for one arm, or where no arm has a finite loss.
    """
    if len(arms) < 2:
        raise ValueError(f"{len(arms)} arm: a comparison needs two")
    seen = evidence(outcomes, arms)
    if not any(seen.screen) and not any(seen.full):
        raise ValueError("no trial has a finite loss")
    rng = _seeded(seen)
    targets = range(len(rules.targets))
    shared = rng.standard_normal((draws, len(arms), len(targets))) @ _root(_luck_of_draws(seen)).T
    variance, freedom = anticipated(seen.screen, seen.full)
    prior = [(float(v), float(f)) for v, f in zip(variance, freedom, strict=True)]
    found = [_proposed(_Sums.of(seen, t, prior[t]), max(PROPOSALS * draws, ENOUGH), rng) for t in targets]
    chosen = kept([one.proposals for one in found], draws, rng)
    parts = [_drawn(found[t], chosen[t], shared[:, :, t], rng) for t in targets]
    truth, spread = (np.stack([part[i] for part in parts], axis=2) for i in (0, 1))
    usual = np.stack([part[2] for part in parts], axis=1)
    sd = np.median(usual, axis=0)
    rho = np.stack([part[3] for part in parts], axis=1)
    unit, matters = rules.units(sd.tolist())
    rate = _rates(seen, draws, rng)
    value = truth + (-special.ndtri(rules.quantile) * spread if rules.criterion == QUANTILE else 0.0)
    if (seen.lost + seen.far).any():
        value = value + rate[:, :, None] * FAR * sd
    # Where the unit is the SD of a draw, it is as unknown as the SD.
    scaled = value / (usual if rules.matters is None and len(targets) > 1 else np.asarray(unit))[..., None, :]
    scaled[:, ~seen.alive] = np.inf
    loss = scaled[:, :, 0] if len(targets) == 1 else (scaled - scaled.min(axis=1, keepdims=True)).max(axis=2)
    return Belief(seen.arms, loss, value, truth, spread, rate, sd, np.asarray(unit), matters, rho, seen.alive, seen)


@dataclass(frozen=True)
class _Sums:
    """Of one target: per arm the numbers, means and sums of squares of paired, screen-only and full-only draws."""

    n: np.ndarray  # [3, arms]: paired, screen-only, full-only
    low: np.ndarray  # [2, arms]: mean screen loss of paired and of screen-only draws
    high: np.ndarray  # [2, arms]: mean full loss of paired and of full-only draws
    squares: np.ndarray  # [2, arms]: within an arm, screen and full
    freedom: np.ndarray  # [2, arms]
    cross: tuple[float, float]  # correlation of paired deviations and its degrees of freedom
    scale: np.ndarray  # [2]: usual SD at each fidelity, for numerical ranges
    expected: tuple[float, float] = (1.0, 0.0)  # variance of a full draw by other targets, and its degrees of freedom

    @staticmethod
    def of(seen: Evidence, target: int, expected: tuple[float, float] = (1.0, 0.0)) -> _Sums:
        count = len(seen.arms)
        n, low, high = np.zeros((3, count)), np.zeros((2, count)), np.zeros((2, count))
        squares, freedom = np.zeros((2, count)), np.zeros((2, count))
        products, pairs = np.zeros(3), 0
        for k in range(count):
            screen = {draw: v[target] for draw, v in seen.screen[k].items()}
            full = {draw: v[target] for draw, v in seen.full[k].items()}
            both = sorted(screen.keys() & full.keys())
            alone = [screen[d] for d in screen if d not in full], [full[d] for d in full if d not in screen]
            x, y = np.array([screen[d] for d in both]), np.array([full[d] for d in both])
            n[:, k] = len(both), len(alone[0]), len(alone[1])
            low[:, k] = _mean(x), _mean(alone[0])
            high[:, k] = _mean(y), _mean(alone[1])
            for f, values in enumerate((screen, full)):
                if values:
                    found = np.array(list(values.values()))
                    squares[f, k], freedom[f, k] = ((found - found.mean()) ** 2).sum(), len(found) - 1
            if len(both) > 1:
                dx, dy = x - x.mean(), y - y.mean()
                products += (dx @ dx, dx @ dy, dy @ dy)
                pairs += len(both) - 1
        correlation = products[1] / np.sqrt(products[0] * products[2]) if products[0] * products[2] > 0 else 0.0
        scale = np.array([_scale(squares[f], freedom[f], values) for f, values in enumerate((low, high))])
        found, more = freedom[1].sum(), expected[1]
        if found and more:
            scale[1] = np.sqrt((found * scale[1] ** 2 + more * expected[0]) / (found + more))
        return _Sums(n, low, high, squares, freedom, (float(correlation), float(pairs)), scale, expected)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _scale(squares: np.ndarray, freedom: np.ndarray, means: np.ndarray) -> float:
    """SD of a draw pooled over arms; without two draws of any arm, that of the means; 1 where nothing varies."""
    total = freedom.sum()
    pooled = np.sqrt(squares.sum() / total) if total else 0.0
    known = means[means != 0]
    spread = float(known.std()) if len(known) > 1 else 0.0
    return float(pooled or spread or 1.0)


@dataclass(frozen=True)
class _Proposed:
    """Nuisances of one target, and what is Gaussian given them."""

    proposals: Proposals
    s: np.ndarray  # [proposals, 2], variances of a draw
    factor: np.ndarray  # [proposals, arms]
    level: float  # that was taken off the full losses
    m: np.ndarray  # [2, proposals, arms]
    t: np.ndarray  # [3: LL, LH, HH, proposals]
    w: np.ndarray  # [3, proposals, arms]
    inverse: np.ndarray  # [3, proposals]
    middle: np.ndarray  # [2, proposals]


def _proposed(sums: _Sums, count: int, rng: np.random.Generator) -> _Proposed:
    level = [_level(sums.low, sums.n[[0, 1]]), _level(sums.high, sums.n[[0, 2]])]
    s, factor, log_spread = _variances(sums, count, rng)
    r = np.tanh(_luck(sums, count, rng))
    m, v = _centres(sums, level, s, factor, r)
    tau, log_weight = _taus(m, v, s, count, rng)
    rho = np.minimum(2 * rng.beta(*RHO, count) - 1, 0.999)
    t = np.stack([tau[:, 0] ** 2, rho * tau[:, 0] * tau[:, 1], tau[:, 1] ** 2])
    w, inverse, middle, likelihood = _gls(m, v + t[:, :, None])
    proposals = Proposals(log_weight + log_spread + likelihood, rho, tau[:, 1] / np.sqrt(np.median(s[:, 1])))
    return _Proposed(proposals, s, factor, level[1], m, t, w, inverse, middle)


def _drawn(
    one: _Proposed, chosen: np.ndarray, z: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(true means [draws, arms], SDs of a draw [draws, arms], usual SD [draws], ρ [draws]) of one target."""
    w, m, t, inverse = one.w[:, chosen], one.m[:, chosen], one.t[:, chosen], one.inverse[:, chosen]
    e = rng.standard_normal((2, len(chosen)))
    root = np.sqrt(inverse[0])
    slope = inverse[1] / root
    rest = np.sqrt(np.maximum(inverse[2] - slope**2, 0))
    g = one.middle[:, chosen] + np.stack([root * e[0], slope * e[0] + rest * e[1]])
    d = m - g[:, :, None]
    cross, own = t[1][:, None], t[2][:, None]
    pull = (cross * w[0] + own * w[1], cross * w[1] + own * w[2])
    mean = g[1][:, None] + pull[0] * d[0] + pull[1] * d[1]
    variance = own - pull[0] * cross - pull[1] * own
    truth = one.level + mean + np.sqrt(np.maximum(variance, 0)) * z
    usual = one.s[chosen, 1]
    return truth, np.sqrt(usual[:, None] * one.factor[chosen]), np.sqrt(usual), one.proposals.rho[chosen]


def _level(means: np.ndarray, n: np.ndarray) -> float:
    """Mean of all draws, taken off before anything is squared."""
    return float((means * n).sum() / n.sum()) if n.sum() else 0.0


def _variances(sums: _Sums, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(variances of a draw [proposals, 2], factors of the arms [proposals, arms], log of likelihood over proposal).

    An arm's factor is the same at both fidelities, ν / χ²_ν over arms with ν unknown; it is integrated out of the
    likelihood of the variances and drawn given them.
    """
    pooled, log_weight = np.empty((count, 2)), np.zeros(count)
    for f in (0, 1):
        some = sums.freedom[f] > 0
        other, more = sums.expected if f else (1.0, 0.0)
        total, own = sums.freedom[f].sum() + more, sums.squares[f, some] / special.chdtri(sums.freedom[f, some], 0.5)
        middle = np.median(own) if some.any() else 0.0
        far = (
            np.log(middle / sums.scale[f] ** 2) / 2 if middle > 0 else 0.0
        )  # spreads unlike each other pull them apart
        width = np.sqrt(3 / (total + 1) + far**2)
        z = rng.standard_normal(count)
        pooled[:, f] = sums.scale[f] ** 2 * np.exp(far + width * z)
        # One pseudo-draw at the usual scale keeps a pool of one or two degrees of freedom from zero and infinity.
        log_weight += z**2 / 2 - (total + 1) / 2 * np.log(pooled[:, f])
        log_weight -= (sums.scale[f] ** 2 + more * other) / pooled[:, f] / 2
    freedom, nu = sums.freedom.sum(axis=0), rng.choice(FREEDOMS, count)
    squares = sums.squares[0] / pooled[:, :1] + sums.squares[1] / pooled[:, 1:]
    constant = [
        (special.gammaln((x + freedom) / 2) - special.gammaln(x / 2) - freedom / 2 * np.log(x)).sum() for x in FREEDOMS
    ]
    log_weight += np.array(constant)[np.searchsorted(FREEDOMS, nu)]
    log_weight -= ((nu[:, None] + freedom) / 2 * np.log1p(squares / nu[:, None])).sum(axis=1)
    factor = (nu[:, None] + squares) / rng.chisquare(nu[:, None] + freedom)
    return pooled, factor, log_weight


def _luck(sums: _Sums, count: int, rng: np.random.Generator) -> np.ndarray:
    """atanh of the correlation of a draw's luck at the two fidelities, [proposals]."""
    found, freedom = sums.cross
    precision, mean = 1 / LUCK[1] ** 2, LUCK[0] / LUCK[1] ** 2
    if freedom > 2:
        precision, mean = precision + freedom - 1, mean + (freedom - 1) * np.arctanh(np.clip(found, -0.99, 0.99))
    return np.asarray(mean / precision + rng.standard_normal(count) / np.sqrt(precision))


def _centres(
    sums: _Sums, level: Sequence[float], s: np.ndarray, factor: np.ndarray, r: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(centres [2, proposals, arms], their error variances [3: LL, LH, HH, proposals, arms]) of the arms' draws."""
    low, high = sums.low - level[0], sums.high - level[1]
    a, b = s[:, :1] * factor, s[:, 1:] * factor  # variances of a draw, [proposals, arms]
    c = (r[:, None]) * np.sqrt(a * b)
    det = a * b - c**2
    paired, screens, fulls = sums.n
    i_ll = paired * b / det + screens / a
    i_lh = -paired * c / det
    i_hh = paired * a / det + fulls / b
    y_l = paired * (b * low[0] - c * high[0]) / det + screens * low[1] / a
    y_h = paired * (a * high[0] - c * low[0]) / det + fulls * high[1] / b
    no_low, no_high = paired + screens == 0, paired + fulls == 0
    i_ll = np.where(no_low, 1 / (UNKNOWN * sums.scale[0] ** 2), i_ll)
    i_hh = np.where(no_high, 1 / (UNKNOWN * sums.scale[1] ** 2), i_hh)
    det = i_ll * i_hh - i_lh**2
    m = np.stack([i_hh * y_l - i_lh * y_h, i_ll * y_h - i_lh * y_l]) / det
    return m, np.stack([i_hh, -i_lh, i_ll]) / det


def _taus(
    m: np.ndarray, v: np.ndarray, s: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(τ_L and τ_H [proposals, 2], log of prior over proposal [proposals]).

    Each is proposed from its posterior given its own fidelity alone at typical variances, mixed with its prior.
    """
    tau, log_weight = np.empty((count, 2)), np.zeros(count)
    for f in (0, 1):
        typical = np.median(v[2 * f], axis=0)
        seen = typical < UNKNOWN * np.median(s[:, f]) / 2
        centre, error = np.median(m[f], axis=0)[seen], typical[seen]
        grid = RATIOS * np.sqrt(np.median(s[:, f]))
        proposal = PRIOR
        if seen.sum() > 1:
            variance = grid[:, None] ** 2 + error
            total = (1 / variance).sum(axis=1)
            middle = (centre / variance).sum(axis=1) / total
            log = -0.5 * (np.log(variance) + (centre - middle[:, None]) ** 2 / variance).sum(axis=1)
            log -= 0.5 * np.log(total)
            likelihood = np.exp(log - log.max()) * PRIOR
            proposal = 0.8 * likelihood / likelihood.sum() + 0.2 * PRIOR
        place = rng.choice(len(grid), count, p=proposal)
        step = np.log(RATIOS[1] / RATIOS[0])
        tau[:, f] = grid[place] * np.exp(step * (rng.random(count) - 0.5))
        log_weight += np.log(PRIOR[place] / proposal[place])
    return tau, log_weight


def _gls(m: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(inverses of the covariances c of the centres m [3, ., arms], of the levels' precision [3, .], levels [2, .], log
    likelihood with the levels integrated out)."""
    det = c[0] * c[2] - c[1] ** 2
    w = np.stack([c[2], -c[1], c[0]]) / det
    total = w.sum(axis=2)
    y = np.stack([(w[0] * m[0] + w[1] * m[1]).sum(axis=1), (w[1] * m[0] + w[2] * m[1]).sum(axis=1)])
    whole = total[0] * total[2] - total[1] ** 2
    inverse = np.stack([total[2], -total[1], total[0]]) / whole
    level = np.stack([inverse[0] * y[0] + inverse[1] * y[1], inverse[1] * y[0] + inverse[2] * y[1]])
    squares = (w[0] * m[0] ** 2 + 2 * w[1] * m[0] * m[1] + w[2] * m[1] ** 2).sum(axis=1) - (y * level).sum(axis=0)
    return w, inverse, level, -0.5 * (np.log(det).sum(axis=1) + np.log(whole) + squares)


def _luck_of_draws(seen: Evidence) -> np.ndarray:
    """Correlation over targets of the deviations of draws from their arm, shrunk towards none, [targets, targets]."""
    parts = [stacked(f) - stacked(f).mean(axis=0) for f in (*seen.full, *seen.screen) if len(f) > 1]
    count = len(next(v for found in (*seen.full, *seen.screen) for v in found.values()))
    if count == 1 or not parts:
        return np.eye(count)
    deviations = np.concatenate(parts)
    scale = np.sqrt((deviations**2).mean(axis=0))
    scaled = deviations / np.where(scale > 0, scale, 1.0)
    weight = len(scaled) / (len(scaled) + count)
    return np.asarray(weight * (scaled.T @ scaled) / len(scaled) * (1 - np.eye(count)) + np.eye(count))


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))


def _rates(seen: Evidence, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Share of draws that fail or are far off, drawn towards the pool, [draws, arms].

    An arm without a usable draw is another matter: it says nothing of how often those of other arms fail.
    """
    bad, alive = seen.lost + seen.far, seen.alive
    pool = (bad[alive].sum() + USUAL_RATE * PSEUDO) / (seen.tried[alive].sum() + PSEUDO)
    a, b = ALIKE[:, None] * pool, ALIKE[:, None] * (1 - pool)
    log = (special.betaln(a + bad, b + seen.tried - bad) - special.betaln(a, b))[:, alive].sum(axis=1)
    weight = ALONE * np.exp(log - log.max())
    alike = rng.choice(ALIKE, (draws, 1), p=weight / weight.sum())
    before = np.where(alive, alike * pool, 0.5), np.where(alive, alike * (1 - pool), 0.5)
    return np.asarray(rng.beta(before[0] + bad, before[1] + seen.tried - bad))


def _seeded(seen: Evidence) -> np.random.Generator:
    """A generator that the same outcomes seed alike."""
    digest = hashlib.sha256()
    for found in (*seen.screen, *seen.full):
        for draw in sorted(found):
            digest.update(np.append(float(draw), found[draw]).tobytes())
    return np.random.default_rng(int.from_bytes(digest.digest()[:8], "little"))
