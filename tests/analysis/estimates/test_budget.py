"""How many examples a trial is worth, against a search."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.estimates.budget import best_examples


def test_formula_is_the_least_variance_for_a_given_time() -> None:
    compress, example, noise, spread = 30.0, 0.05, 0.2, 0.0004
    numbers = np.arange(1, 20_000)
    trials = 3600 / (compress + example * numbers)
    variance = spread / trials + noise / (trials * numbers)
    assert abs(best_examples(compress, example, noise, spread).examples - numbers[variance.argmin()]) <= 1


def test_without_a_spread_over_sets_every_second_belongs_to_examples() -> None:
    assert best_examples(1.0, 1.0, 1.0, 0.0).examples == float("inf")


def test_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        best_examples(0.0, 1.0, 1.0, 1.0)
