"""Spreads of unlike sources, and sets that are far off."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.estimates.spreads import far_off, far_words, has_spread, repeats, spreads, typical


def test_one_set_far_from_the_others_is_found_and_left_out() -> None:
    rng = np.random.default_rng(0)
    groups = [rng.normal(0, 1, 10) for _ in range(5)]
    groups[2][4] -= 12
    found = far_off(groups)
    assert [int(far.sum()) for far in found] == [0, 0, 1, 0, 0]
    assert found[2][4]
    kept, counts = typical(groups)
    assert counts == (0, 0, 1, 0, 0)
    assert len(kept[2]) == 9
    assert far_words(list("abcde"), groups, counts) == "one of 10 sets of c is far off"
    assert far_words(list("abcde"), groups, (2, 0, 1, 0, 0)) == "2 of 10 sets of a and one of 10 sets of c are far off"


def test_a_source_that_scatters_more_is_not_far_off() -> None:
    rng = np.random.default_rng(1)
    false = sum(any(far.any() for far in far_off([rng.normal(0, sd, 8) for sd in (1, 1, 2, 4)])) for _ in range(60))
    assert false <= 12


def test_a_set_is_far_off_only_where_the_shape_of_its_own_source_shows_it() -> None:
    rng = np.random.default_rng(7)
    false = seen = 0
    for _ in range(60):
        calm = [rng.normal(0, 1, 8) for _ in range(4)]
        wide = rng.normal(0, 5, 8)
        failed = rng.normal(0, 1, 8) - 10 * (np.arange(8) == 0)
        false += any(far.any() for far in far_off([*calm, wide]))
        seen += bool(far_off([*calm, failed])[-1][0])
    assert false <= 11  # 17 of 60 where only the spread of all sources is asked
    assert seen == 60


def test_normal_sets_are_hardly_ever_far_off() -> None:
    rng = np.random.default_rng(2)
    assert sum(any(far.any() for far in far_off([rng.normal(0, 1, 5) for _ in range(6)])) for _ in range(100)) <= 7


def test_variances_are_drawn_towards_each_other_as_far_as_they_are_alike() -> None:
    rng = np.random.default_rng(3)
    alike = [rng.normal(0, 1, 4) for _ in range(8)]
    alike[0] = np.array([-0.1, 0.0, 0.1, 0.05])  # calm by luck
    unlike = [rng.normal(0, sd, 12) for sd in (0.1, 1, 2, 5, 0.1, 1, 2, 5)]
    pulled = np.median(spreads(alike, rng).variance[:, 0]) / alike[0].var(ddof=1)
    kept = np.median(spreads(unlike, rng).variance[:, 0]) / unlike[0].var(ddof=1)
    assert pulled > 10
    assert 0.7 < kept < 1.6


def test_centre_of_a_source_with_a_far_set_is_that_of_the_others() -> None:
    rng = np.random.default_rng(4)
    groups = [rng.normal(0, 1, 8) for _ in range(4)]
    groups[0][0] += 20
    found = spreads(groups, rng)
    assert found.outlying == (1, 0, 0, 0)
    assert abs(np.median(found.centre[:, 0]) - groups[0][1:].mean()) < 0.1


def test_values_that_never_differ_have_no_spread_but_a_bound() -> None:
    groups = [np.ones(3), np.zeros(3)]
    assert not has_spread(groups)
    with pytest.raises(ValueError, match="no two sets"):
        spreads(groups, np.random.default_rng(0))
    assert np.isclose(repeats(groups), 0.05**0.25)
    assert repeats([np.ones(1)]) == 0
    assert all(not far.any() for far in far_off(groups))


def test_recorded_values_that_agree_are_not_without_spread() -> None:
    """Accuracies over eighty answers move in steps: two equal ones lie within a step of each other, and no nearer."""
    found = spreads([np.array([50.0, 50.0]), np.array([51.25, 50.0]), np.array([50.0, 52.5])], np.random.default_rng(0))
    assert (np.quantile(found.variance, 0.01, axis=0) > 0.01).all()
