"""How many calibration sets a difference needs to be seen."""

from __future__ import annotations

import numpy as np
from scipy import stats

POWER, ALPHA, MOST = 0.8, 0.05, 1000  # the usual power and level; beyond a thousand sets nobody will run it


def sets_needed(effect: float, power: float = POWER, alpha: float = ALPHA) -> int | None:
    """Sets per source with which a two-sided t-test sees a difference of `effect` SDs; None beyond 1,000."""
    if effect <= 0:
        return None

    def reaches(n: int) -> bool:
        freedom, shift = 2 * (n - 1), effect * (n / 2) ** 0.5
        critical = stats.t.ppf(1 - alpha / 2, freedom)
        seen = stats.nct.sf(critical, freedom, shift) + stats.nct.cdf(-critical, freedom, shift)
        if np.isnan(seen):  # too far out for the noncentral t, and so on one side of the critical value for certain
            return bool(shift > critical)
        return bool(seen >= power)

    if not reaches(MOST):
        return None
    low, high = 1, MOST  # `low` does not reach it: a test needs two sets
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high
