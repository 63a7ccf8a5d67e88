from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.estimates.reliability import CUTS, Cuts, Halves, Reliability, source_means, split_half


def study(rng: np.random.Generator, source: float, crossed: float, examples: int, sources: int = 8) -> np.ndarray:
    """Outcomes [sources × 3 sets, examples] with known SDs of source and source × example."""
    own = rng.normal(0, source, (sources, 1)) + rng.normal(0, crossed, (sources, examples))
    return np.repeat(own, 3, axis=0) + rng.normal(0, 3, examples)


NAMES = [f"s{number}" for number in range(8) for _ in range(3)]


def halved(matrices: list[np.ndarray], seed: int = 0, cuts: int = CUTS, names: list[str] = NAMES) -> Reliability:
    """Reliability of outcomes, a matrix a task."""
    return split_half([source_means(matrix, names) for matrix in matrices], Halves(Cuts(seed, cuts)))


def test_halves_drawn_once_are_those_of_a_generator() -> None:
    cuts = Cuts(seed=7, cuts=5)
    for sizes in ((6, 9, 6), (6, 9), (9, 6, 9), (6, 9, 6)):  # each starts anew; the last is known by then
        halves, rng = Halves(cuts), np.random.default_rng(7)
        for size in sizes:
            expected = rng.permuted(np.tile(np.arange(size) < size // 2, (5, 1)), axis=1)
            assert np.array_equal(halves.of(size), expected)


def test_means_of_sources_are_those_of_their_trials() -> None:
    matrix, names = np.random.default_rng(6).normal(size=(5, 7)), ["b", "a", "b", "c", "a"]
    expected = [matrix[[1, 4]].mean(axis=0), matrix[[0, 2]].mean(axis=0), matrix[3]]
    assert np.allclose(source_means(matrix, names), expected)


def test_half_equals_a_loop_over_cuts() -> None:
    rng = np.random.default_rng(0)
    matrices = [study(rng, 1, 2, 21), study(rng, 1, 1, 30)]
    found = halved(matrices, seed=1, cuts=4000)
    means = [np.stack([m[[n == name for n in NAMES]].mean(axis=0) for name in sorted(set(NAMES))]) for m in matrices]
    halves = []
    for _ in range(2000):
        first, second = np.zeros(8), np.zeros(8)
        for values in means:
            order = rng.permutation(values.shape[1])
            cut = values.shape[1] // 2
            first += values[:, order[:cut]].mean(axis=1)
            second += values[:, order[cut:]].mean(axis=1)
        halves.append(stats.spearmanr(first, second).statistic)
    assert found.examples == 51
    assert found.half == pytest.approx(np.mean(halves), abs=0.02)
    assert found.reliability == pytest.approx(2 * found.half / (1 + found.half))


def test_reliability_is_the_squared_correlation_with_the_truth() -> None:
    """Over many studies: true variance / (true + source × example / examples), up to ranks."""
    rng = np.random.default_rng(2)
    for crossed, wanted in ((2.0, 40 / 44), (8.0, 40 / 104)):
        found = [halved([study(rng, 1, crossed, 40)], seed, 40).half or 0 for seed in range(150)]
        half = np.mean(found)
        assert 2 * half / (1 + half) == pytest.approx(wanted, abs=0.06)


def test_sources_that_do_not_differ_have_none() -> None:
    rng = np.random.default_rng(3)
    found = [halved([study(rng, 0, 1, 60)], seed, 40).half or 0 for seed in range(150)]
    assert abs(np.mean(found)) < 0.06


def test_examples_needed_come_true() -> None:
    rng = np.random.default_rng(4)
    halves = [halved([study(rng, 1, 6, 40)], seed, 40) for seed in range(150)]
    typical = sorted(halves, key=lambda found: found.half or 0)[75]
    needed = typical.needed(0.8)
    assert needed is not None
    more = np.mean([halved([study(rng, 1, 6, needed)], seed, 40).half or 0 for seed in range(150)])
    assert 2 * more / (1 + more) == pytest.approx(0.8, abs=0.08)


def test_what_cannot_be_known_is_none() -> None:
    rng = np.random.default_rng(5)
    two = halved([study(rng, 1, 1, 20, sources=2)], names=NAMES[:6])
    few = halved([study(rng, 1, 1, 3)])
    assert {found.half for found in (two, few)} == {None}
    assert {found.reliability for found in (two, few)} == {found.needed(0.8) for found in (two, few)}
    opposed = np.repeat(np.arange(8.0)[:, None], 3, axis=0) * np.where(np.arange(20) < 10, 1, -1)
    found = halved([opposed])
    assert found.half is not None
    assert found.half < 0
    assert found.needed(0.8) is None


def test_a_measure_that_sees_no_difference_orders_none() -> None:
    flat = halved([np.ones((24, 20))])
    assert (flat.half, flat.reliability, flat.needed(0.8)) == (0, 0, None)


def test_cuts_in_which_a_half_sees_no_difference_count() -> None:
    """Two examples of twenty tell one source from the rest: they fall into two halves, and agree, in 10 of 19 cuts."""
    two = np.zeros((24, 20))
    two[:3, :2] = 1
    found = halved([two], cuts=20_000)
    assert found.half == pytest.approx(10 / 19, abs=0.02)
