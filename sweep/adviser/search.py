"""The searched mixture: a few mixtures are screened, a surface is fitted, and its best mixture becomes an arm.

`mixture.py` fits and proposes. Here stands which mixtures are screened for that and how much of the budget they may
take: pairs in halves of the candidates that screened best, and checks between them, as many as can be paid. A proposed
mixture has proved nothing; it takes part as any arm does. Its shares are whole windows of a screened set, so its
screens are nested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from calib.settings import SettingsError
from sweep.adviser.candidates import Arm, mixture
from sweep.adviser.mixture import checks, fit, lattice, propose, rounded
from sweep.adviser.study import SMALLER

SEARCHED = "searched mixture"
SEARCH_SHARE = 0.15  # of the budget at most is spent on screens of mixtures
MOST = 6  # candidates that are mixed: fifteen pairs and seven checks


def check_search(arms: Sequence[Arm], windows: int, nsamples: int) -> None:
    """Raise SettingsError where a search has nothing to look at: fewer than two texts, or screened sets of so few
    windows, an eighth of `nsamples`, that every mixture of them takes part already."""
    plain = [arm for arm in arms if arm.plain]
    if len(plain) < 2:
        raise SettingsError("--search-mixture: mixes texts, and fewer than two candidates are texts; leave it out")
    names = [arm.name for arm in plain[:MOST]]
    if all(any(alike(mixed, arm) for arm in arms) for mixed in to_screen(names, plain, windows)):
        raise SettingsError(
            f"--search-mixture: a screen is {windows} of {nsamples} windows, and every mixture of {windows} windows "
            f"takes part already, so there is nothing to search; choose --nsamples {SMALLER * windows + 1} or more, or "
            "leave --search-mixture out"
        )


def to_mix(losses: Mapping[str, Sequence[float]], affordable: float) -> list[str]:
    """The candidates that are mixed, best first by their worst target; as many as `affordable` screens pay.

    losses: of the candidates' screens on each target. Fewer than two where no mixture can be paid.
    """
    names = list(losses)
    table = np.array([losses[name] for name in names])  # [candidates, targets]
    regret = ((table - table.min(axis=0)) / unit_of(table)).max(axis=1)
    count = max((m for m in range(2, MOST + 1) if m * (m - 1) / 2 + m + 1 <= affordable), default=0)
    return [names[k] for k in np.argsort(regret, kind="stable")[:count]]


def to_screen(chosen: Sequence[str], candidates: Sequence[Arm], windows: int) -> list[Arm]:
    """Every pair of the chosen in halves, and checks inside, in whole windows of a set of so many; each once."""
    m = len(chosen)
    wanted = np.vstack([lattice(m)[m:], checks(m)])
    rows = np.unique([rounded(row, 1 / windows) for row in wanted], axis=0)
    mixed = [row for row in rows[::-1] if row.max() < 1]
    return [mixture(shares_of(row, chosen), candidates, f"search {k}") for k, row in enumerate(mixed, 1)]


def searched(
    points: Sequence[tuple[Mapping[str, float], Sequence[float]]],
    chosen: Sequence[str],
    candidates: Sequence[Arm],
    windows: int,
) -> Arm | None:
    """The mixture that a surface through these screens likes best; None where that is a single candidate.

    points: (shares, losses on each target) of the candidates alone and of mixtures; windows: of a screened set.
    """
    weights = np.array([[shares.get(name, 0.0) for name in chosen] for shares, _ in points])
    losses = np.array([values for _, values in points])
    best = propose(fit(weights, losses), 1, unit_of(losses), step=1 / windows)[0]
    if best.max() >= 1:
        return None
    return mixture(shares_of(best, chosen), candidates, SEARCHED)


def alike(one: Arm, other: Arm) -> bool:
    """Whether two arms are the same mixture."""
    mine, theirs = one.shares or {}, other.shares or {}
    return mine.keys() == theirs.keys() and all(abs(mine[name] - theirs[name]) < 1e-6 for name in mine)


def shares_of(weights: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """The parts that a mixture has, by name."""
    return {name: float(weight) for name, weight in zip(names, weights, strict=True) if weight > 0}


def unit_of(losses: np.ndarray) -> np.ndarray:
    """What makes the targets' losses [points, targets] comparable: their SD over the points, [targets]."""
    spread = losses.std(axis=0)
    return np.where(spread > 0, spread, 1.0)
