"""Single answers side by side, against the plainest counts."""

from __future__ import annotations

import numpy as np
from scipy import stats

from analysis.estimates.flips import example_variance, mcnemar_p


def test_variance_of_the_test_examples_is_recovered() -> None:
    rng = np.random.default_rng(7)
    names = ["a"] * 3 + ["b"] * 5 + ["c"] * 2
    place = np.unique(names, return_inverse=True)[1]

    def differences() -> np.ndarray:
        crossed = rng.normal(0, 4, (3, 80))[place]  # some sources favour some examples
        return rng.normal(0, 3, (1, 80)) + crossed + rng.normal(0, 5, (10, 80)) + rng.normal(0, 2, (10, 1))

    found = [example_variance(differences(), names) for _ in range(600)]
    assert np.isclose(np.mean(np.array(found, float)), 9 / 80, rtol=0.07)
    assert example_variance(np.array([[1.0], [2.0]]), ["a", "b"]) is None


def test_mcnemar_equals_the_binomial_test() -> None:
    a, b = np.array([10, 0, 3, 7]), np.array([2, 0, 3, 1])
    expected = [stats.binomtest(int(x), int(x + y)).pvalue if x + y else 1.0 for x, y in zip(a, b, strict=True)]
    assert np.allclose(mcnemar_p(a, b), expected)
