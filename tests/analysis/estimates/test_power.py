"""Numbers of sets against the power of a t-test in statsmodels."""

from __future__ import annotations

import numpy as np
from statsmodels.stats.power import TTestIndPower

from analysis.estimates.power import sets_needed


def test_sets_needed_equals_the_power_of_a_t_test() -> None:
    for effect in (0.3, 0.8, 1.5, 3.0):
        exact = TTestIndPower().solve_power(effect, power=0.8, alpha=0.05)
        assert sets_needed(effect) == int(np.ceil(exact - 1e-9))
    assert sets_needed(0.0) is None
    assert sets_needed(0.01) is None
    assert sets_needed(50.0) == 2
