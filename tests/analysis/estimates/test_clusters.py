"""Sets that fall into two groups are told from sets that scatter."""

from __future__ import annotations

import numpy as np

from analysis.estimates.clusters import LEVEL, LEVEL_WIDE, _chances, between_share, left_over, two_groups


def test_share_between_is_that_of_the_best_cut_of_all() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 6)
    total = ((values - values.mean()) ** 2).sum()
    best = 0.0
    for mask in range(1, 2**6 - 1):  # the best of all cuts into two is one of the ordered values
        one = np.array([bool(mask >> i & 1) for i in range(6)])
        inside = sum(((part - part.mean()) ** 2).sum() for part in (values[one], values[~one]))
        best = max(best, 1 - inside / total)
    assert np.isclose(between_share(values), best)


def test_normal_draws_of_any_spread_are_seldom_said_to_fall_apart() -> None:
    rng = np.random.default_rng(1)
    for scales, level in (((1, 1, 1, 1, 1), LEVEL + 0.01), ((1, 1, 1, 1, 5), LEVEL + LEVEL_WIDE)):
        said = [two_groups([scale * rng.standard_normal(5) for scale in scales]) for _ in range(400)]
        assert np.mean(said) < level + 3.5 * (level / 400) ** 0.5


def test_two_failures_in_five_are_mostly_seen() -> None:
    rng = np.random.default_rng(2)
    failed = np.array([0, 0, 0, 10, 10])
    said = [two_groups([rng.standard_normal(5) + (failed if s < 2 else 0) for s in range(6)]) for _ in range(100)]
    assert np.mean(said) > 0.8


def test_what_is_left_without_the_outermost_sets_knows_nothing_of_the_spread() -> None:
    rng = np.random.default_rng(4)
    for count in (1, 2):
        p = np.array([left_over(rng.normal(3, sd, 7), count) for sd in (0.1, 1, 40) for _ in range(200)])
        assert abs(np.mean(p < 0.1) - 0.1) < 3.5 * (0.1 * 0.9 / 600) ** 0.5
    far = np.array([0.0, 0.1, -0.1, 0.2, -20.0])
    assert left_over(far, 1) < 1e-3 < left_over(np.array([0.0, 1.0, 2.0, 3.0, 4.0]), 1)
    assert left_over(np.array([0.0, 0.1, -0.1, 20.0, -20.0, 0.05, 0.02]), 2) < 1e-3  # one at either end
    assert left_over(far, 0) == 1.0


def test_accuracies_on_few_questions_are_not_two_groups_for_having_two_values() -> None:
    rng = np.random.default_rng(6)
    said = [two_groups([5 * np.round(rng.normal(60, 3, 12) / 5) for _ in range(6)]) for _ in range(60)]
    assert np.mean(said) < 0.1
    failed = [5 * np.round(rng.normal(60, 3, 12) / 5) - 40 * (np.arange(12) % 2) for _ in range(6)]
    assert two_groups(failed)


def test_three_sets_or_equal_ones_say_nothing() -> None:
    assert not two_groups([np.array([0.0, 0.1, 9.0]), np.ones(5)])


def test_sources_looked_at_together_have_the_chances_of_each_alone() -> None:
    rng = np.random.default_rng(3)
    groups = [rng.standard_normal(size) for size in (5, 8, 5, 4, 8, 5)]
    assert np.array_equal(_chances(groups), np.concatenate([_chances([group]) for group in groups]))
