"""Two samples of sets: right error rates where nothing differs, and probabilities that come true."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.estimates.comparisons import holm, new_source_wins, paired, welch, wilson
from analysis.estimates.flips import example_variance


def test_two_equal_sources_are_told_apart_in_five_percent_of_studies_and_never_more_after_holm() -> None:
    rng = np.random.default_rng(0)
    alarms = families = 0
    for _ in range(400):
        cells = rng.normal(0, 1, (4, 5))
        p = [welch(cells[i], cells[j], None)["p"] for i in range(4) for j in range(i)]
        alarms += p[0] < 0.05
        families += min(holm(p)) < 0.05
    assert 0.02 < alarms / 400 < 0.08
    assert families / 400 < 0.08


def test_interval_of_two_sources_covers_their_difference() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(500):
        row = welch(rng.normal(1, 1, 5), rng.normal(0, 2, 8), None)
        covered += row["low"] <= 1 <= row["high"]
    assert 0.92 < covered / 500 < 0.98


def test_probability_for_a_new_draw_is_how_often_new_draws_win() -> None:
    rng = np.random.default_rng(2)
    said, happened = [], []
    for _ in range(3000):
        truth = rng.normal(0, 3)  # effects of every size, so that being sure is not being lucky
        a, b = rng.normal(truth, 1, 6), rng.normal(0, 1, 6)
        said.append(welch(a, b, None)["a_wins_new_draw"])
        happened.append(rng.normal(truth, 1) > rng.normal(0, 1))
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        inside = (np.array(said) >= low) & (np.array(said) <= high)
        assert abs(np.mean(np.array(said)[inside]) - np.mean(np.array(happened)[inside])) < 0.07


def test_probability_for_a_new_test_set_is_how_often_it_comes_true() -> None:
    """Two methods, five sources of four sets, sixty examples that each favour one of them; then all of it anew."""
    rng = np.random.default_rng(6)
    sources, sets, examples = 5, 4, 60
    said, happened = [], []
    for _ in range(2000):
        truth = rng.normal(0, 60)  # effects of every size, so that being sure is not being lucky

        def answered(sources: int, sets: int, truth: float = truth) -> np.ndarray:
            favour = truth + rng.normal(0, 100, examples)
            text = rng.normal(0, 8, (sources, 1)) + rng.normal(0, 60, (sources, examples)) + favour
            draws = rng.normal(0, 8, (sources, sets, 1)) + rng.normal(0, 60, (sources, sets, examples))
            return (text[:, None] + draws).reshape(-1, examples)

        seen, names = answered(sources, sets), np.repeat(np.arange(sources), sets).tolist()
        row = paired(seen.mean(axis=1), names, example_variance(seen, names))
        said.append(row["a_wins_new_test"])
        happened.append(answered(1, 1).mean() > 0)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        inside = (np.array(said) >= low) & (np.array(said) <= high)
        assert abs(np.mean(np.array(said)[inside]) - np.mean(np.array(happened)[inside])) < 0.07


SHAPES = ((3,) * 3, (10,) * 5, (10,) * 3, (10,) * 8, (5,) * 2, (2, 4, 9), (1, 1, 1, 1))


@pytest.mark.parametrize("ratio", [0, 1, 4])
@pytest.mark.parametrize("counts", SHAPES)
def test_probability_for_a_new_set_of_a_new_source_is_how_often_it_wins(counts: tuple[int, ...], ratio: int) -> None:
    """Sources are drawn as well as sets, `ratio` times their variance, and the new set is of none that was seen.

    The new value is subtracted from every value, so that a stated probability has to be right at any true difference.
    """
    rng = np.random.default_rng(9)
    sure = []
    for _ in range(1000):
        new = rng.normal(0, ratio**0.5) + rng.normal(0, 1)
        groups = [rng.normal(0, ratio**0.5) + rng.normal(0, 1, count) - new for count in counts]
        stated = new_source_wins(groups)
        assert stated is not None
        sure.append(max(stated, 1 - stated))
    for level, much in ((0.8, 0.04), (0.95, 0.02), (0.99, 0.01)):
        true = (1 + np.mean(np.array(sure) <= level)) / 2
        assert true > level - much
        if len(counts) > 4:  # with fewer sources it may err on the side of too little
            assert true < level + much + 0.01


def test_one_source_tells_nothing_about_a_new_one() -> None:
    row = paired(np.array([1.0, 1.2, 0.9]), ["books"] * 3, 0.1)
    assert row["a_wins_new_draw"] is None
    assert row["a_wins_new_test"] is None
    assert row["p"] < 0.05


def test_a_thousand_sets_of_three_sources_are_three_sources() -> None:
    rng = np.random.default_rng(3)
    names = np.repeat(np.arange(3), 1000)
    gap = np.array([1.0, 2.0, 3.0])[names] + rng.normal(0, 0.01, 3000)
    expected = stats.t.cdf(2 / (4 / 3) ** 0.5, 2)
    assert np.isclose(paired(gap, names.tolist())["a_wins_new_draw"], expected, atol=0.005)


def test_paired_interval_covers_the_difference_of_methods() -> None:
    rng = np.random.default_rng(3)
    sources = np.repeat(np.arange(5), 4)
    effects = np.array([0.5, 1.0, 1.5, 0.8, 1.2])
    covered = 0
    for _ in range(400):
        row = paired(effects[sources] + rng.normal(0, 1, 20), sources.tolist())
        covered += row["low"] <= effects.mean() <= row["high"]
    assert 0.92 < covered / 400 < 0.98


def test_holm_equals_its_definition() -> None:
    assert np.allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_wilson_interval_of_a_known_share() -> None:
    low, high = wilson(8, 10)
    assert np.allclose([low, high], [0.490162, 0.943318], atol=1e-5)
