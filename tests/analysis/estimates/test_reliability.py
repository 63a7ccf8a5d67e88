from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.estimates.reliability import split_half


def study(rng: np.random.Generator, source: float, crossed: float, examples: int, sources: int = 8) -> np.ndarray:
    """Outcomes [sources × 3 sets, examples] with known SDs of source and source × example."""
    own = rng.normal(0, source, (sources, 1)) + rng.normal(0, crossed, (sources, examples))
    return np.repeat(own, 3, axis=0) + rng.normal(0, 3, examples)


NAMES = [f"s{number}" for number in range(8) for _ in range(3)]


def test_half_equals_a_loop_over_cuts() -> None:
    rng = np.random.default_rng(0)
    matrices = [study(rng, 1, 2, 21), study(rng, 1, 1, 30)]
    found = split_half(matrices, NAMES, np.random.default_rng(1), cuts=4000)
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
        found = [split_half([study(rng, 1, crossed, 40)], NAMES, rng, cuts=40).half or 0 for _ in range(150)]
        half = np.mean(found)
        assert 2 * half / (1 + half) == pytest.approx(wanted, abs=0.06)


def test_sources_that_do_not_differ_have_none() -> None:
    rng = np.random.default_rng(3)
    found = [split_half([study(rng, 0, 1, 60)], NAMES, rng, cuts=40).half or 0 for _ in range(150)]
    assert abs(np.mean(found)) < 0.06


def test_examples_needed_come_true() -> None:
    rng = np.random.default_rng(4)
    halves = [split_half([study(rng, 1, 6, 40)], NAMES, rng, cuts=40) for _ in range(150)]
    typical = sorted(halves, key=lambda found: found.half or 0)[75]
    needed = typical.needed(0.8)
    assert needed is not None
    more = np.mean([split_half([study(rng, 1, 6, needed)], NAMES, rng, cuts=40).half or 0 for _ in range(150)])
    assert 2 * more / (1 + more) == pytest.approx(0.8, abs=0.08)


def test_what_cannot_be_known_is_none() -> None:
    rng = np.random.default_rng(5)
    two = split_half([study(rng, 1, 1, 20, sources=2)], NAMES[:6], rng)
    few = split_half([study(rng, 1, 1, 3)], NAMES, rng)
    flat = split_half([np.ones((24, 20))], NAMES, rng)
    assert {found.half for found in (two, few, flat)} == {None}
    assert {found.reliability for found in (two, few, flat)} == {found.needed(0.8) for found in (two, few, flat)}
    opposed = np.repeat(np.arange(8.0)[:, None], 3, axis=0) * np.where(np.arange(20) < 10, 1, -1)
    found = split_half([opposed], NAMES, rng)
    assert found.half is not None
    assert found.half < 0
    assert found.needed(0.8) is None
