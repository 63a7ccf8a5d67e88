"""Means and variances of sources that scatter unlike."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from analysis.estimates.welch import USUAL, contrast, set_variance, source_variance


def test_two_samples_are_welchs_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 6), rng.normal(0, 3, 6)
    found = contrast([a, b], [1, -1])
    expected = stats.ttest_ind(a, b, equal_var=False)
    assert np.isclose(found.p, expected.pvalue)
    assert np.allclose([found.low, found.high], list(expected.confidence_interval()))


@pytest.mark.parametrize("counts, sds", [((2, 10), (1, 1)), ((2, 10), (5, 1)), ((3, 10), (5, 1)), ((4, 8), (1, 5))])
def test_few_sets_against_many_hold(counts: tuple[int, int], sds: tuple[int, int]) -> None:
    """Welch's own degrees of freedom hold in .90 of studies of 2 against 10 sets."""
    rng = np.random.default_rng(2)
    held = []
    for _ in range(2000):
        found = contrast([sd * rng.normal(size=count) for sd, count in zip(sds, counts, strict=True)], [1, -1])
        assert found.low is not None and found.high is not None
        held.append(found.low <= 0 <= found.high)
    assert 0.91 < np.mean(held) < 0.98


def test_equal_values_in_steps_have_the_spread_of_rounding() -> None:
    a, b = np.array([50.0, 50.0, 50.0]), np.array([51.25, 52.5, 51.25])
    found = contrast([a, b], [1, -1])
    assert np.isclose(found.error, (1.25**2 / 12 / 3 + b.var(ddof=1) / 3) ** 0.5)


def test_alike_variances_of_many_sources_count_as_known_better() -> None:
    groups = [np.array([0.0, step]) + place for place, step in enumerate((1.0, 1.5, 2.0, 1.2))]
    parts = np.array([group.var(ddof=1) for group in groups])
    found = contrast(groups, np.full(4, 0.25))
    assert np.isclose(found.freedom, min(2 * parts.sum() ** 2 / (parts**2).sum(), 4))
    wild = [group * scale for group, scale in zip(groups, (1, 1, 1, 20), strict=True)]
    parts = np.array([group.var(ddof=1) for group in wild])
    assert np.isclose(contrast(wild, np.full(4, 0.25)).freedom, parts.sum() ** 2 / (parts**2).sum())


def test_the_sd_of_two_equal_sources_is_above_zero_as_often_as_it_may() -> None:
    rng = np.random.default_rng(3)
    above = 0
    for _ in range(600):
        groups = [rng.normal(size=6), rng.normal(size=6)]
        errors = np.array([group.var(ddof=1) / 6 for group in groups])
        drawn = source_variance(np.array([group.mean() for group in groups]), errors, np.full(2, 5.0), rng, 400)
        above += np.quantile(drawn, 0.025) > 0
    assert 0.012 < above / 600 < 0.045


def test_equal_variances_and_sets_are_the_pooled_t_interval() -> None:
    groups = [np.array([0.0, 1.0, 2.0]) + i for i in range(4)]  # the same spread in each
    found = contrast(groups, np.full(4, 0.25))
    assert np.isclose(found.freedom, 8)
    assert np.isclose(found.error, (1 / 3 / 4) ** 0.5)


def test_without_a_spread_there_is_no_interval() -> None:
    assert contrast([np.ones(3), np.zeros(3)], [1, -1]).low is None
    assert contrast([np.ones(1), np.zeros(1)], [1, -1]).low is None


def test_a_source_with_one_set_takes_the_mean_variance_of_the_others() -> None:
    several = [np.array([0.0, 2.0]), np.array([0.0, 4.0])]
    found = contrast([*several, np.array([1.0])], [0, 0, 1])
    assert np.isclose(found.error, ((2 + 8) / 2) ** 0.5)


def test_the_mean_variance_weighs_sources_alike() -> None:
    rng = np.random.default_rng(1)
    groups = [rng.normal(0, 1, 20), rng.normal(0, 5, 3), np.array([1.0])]
    variance = set_variance(groups)
    assert np.isclose(variance.value, (groups[0].var(ddof=1) + groups[1].var(ddof=1)) / 2)
    assert 0.5 < variance.cautious <= variance.freedom < 21


@pytest.mark.parametrize("sds", [(1, 1, 1, 1, 1), (1, 2, 3, 4, 5)])
def test_interval_of_the_mean_variance_holds_it(sds: tuple[float, ...]) -> None:
    rng = np.random.default_rng(2)
    counts, true = (10, 8, 6, 4, 3), np.mean(np.square(sds))
    covered = 0
    for _ in range(600):
        groups = [rng.normal(0, sd, count) for sd, count in zip(sds, counts, strict=True)]
        low, high = set_variance(groups).interval()
        covered += low <= true <= high
    assert 0.92 < covered / 600 < 0.99


def test_draws_of_the_mean_variance_have_the_limits_of_its_interval() -> None:
    rng = np.random.default_rng(9)
    variance = set_variance([rng.normal(0, sd, 5) for sd in (1, 1, 1, 5)])
    assert variance.cautious < variance.freedom
    drawn = variance.drawn(rng, 200_000)
    assert np.allclose(np.quantile(drawn, [0.025, 0.975]), variance.interval(), rtol=0.05)


def test_variance_of_sources_is_recovered_and_zero_where_there_is_none() -> None:
    rng = np.random.default_rng(3)
    covered = alike = 0
    errors, freedom = np.array([0.1, 0.2, 0.4, 0.1, 0.9, 0.3]), np.full(6, 4.0)
    for _ in range(200):
        own = errors * rng.chisquare(freedom) / freedom
        low, high = np.quantile(
            source_variance(rng.normal(0, 1, 6) + rng.normal(0, errors**0.5), own, freedom, rng, 400), [0.025, 0.975]
        )
        covered += low <= 1 <= high
        low, high = np.quantile(source_variance(rng.normal(0, errors**0.5), own, freedom, rng, 400), [0.025, 0.975])
        alike += low <= 0 <= high
    assert covered >= 180
    assert alike >= 180


def test_variance_of_sources_solves_its_equation_draw_by_draw() -> None:
    means, errors, freedom = (
        np.array([0.0, 0.3, 1.0, 0.5]),
        np.array([0.1, 0.02, 0.05, 0.1]),
        np.array([4.0, 2.0, 4.0, 0.0]),
    )
    found = source_variance(means, errors, freedom, np.random.default_rng(5), 50)
    rng = np.random.default_rng(5)
    known = np.maximum(freedom, 1)
    drawn = errors * np.where(freedom > 0, known / rng.chisquare(known, (50, 4)), 1.0)

    def beyond(variance: float, own: np.ndarray, wanted: float) -> float:
        weight = 1 / (own + variance)
        return float((weight * (means - np.average(means, weights=weight)) ** 2).sum() - wanted)

    zeros = 0
    for variance, own, wanted in zip(found, drawn, rng.chisquare(3, 50), strict=True):
        none = beyond(0, own, wanted) <= 0
        zeros += none
        expected = 0.0 if none else optimize.brentq(beyond, 0, 1e4, (own, wanted), xtol=1e-13)
        assert np.isclose(variance, expected, atol=1e-9)
    assert 0 < zeros < 50


def test_heavy_tails_leave_fewer_degrees_of_freedom() -> None:
    rng = np.random.default_rng(8)
    freedom = {}
    for name, draw in (("normal", rng.standard_normal), ("student", lambda n: rng.standard_t(4, n))):
        freedom[name] = np.mean([set_variance([draw(8) for _ in range(6)]).cautious for _ in range(200)])
    assert freedom["student"] < 0.8 * freedom["normal"]
    assert freedom["normal"] > 0.7 * 42 / USUAL


def test_two_sources_of_equal_sets_that_differ_have_a_variance_between_them() -> None:
    found = source_variance(np.array([1.0, 2.0]), np.zeros(2), np.array([2.0, 2.0]), np.random.default_rng(0), 500)
    assert np.isfinite(found).all() and (found > 0).all()


def test_what_a_source_with_one_set_borrows_is_known_no_better_than_the_lender() -> None:
    lender = np.array([1.0, 3.0])
    assert contrast([lender, np.array([2.0])], [0.5, 0.5]).freedom == pytest.approx(1.0)
    assert contrast([lender, np.array([2.0]), np.array([5.0])], [0.0, 1.0, -1.0]).freedom == pytest.approx(1.0)
    both = contrast([lender, np.array([0.0, 2.0]), np.array([5.0])], [0.0, 0.0, 1.0]).freedom
    assert both == pytest.approx(2.0)  # the mean of two estimates


@pytest.mark.parametrize(
    ("sizes", "held"), [((2, 1), (0.93, 0.97)), ((3, 1), (0.93, 0.97)), ((2, 2, 1, 1), (0.93, 0.98))]
)
def test_means_with_sources_of_one_set_hold(sizes: tuple[int, ...], held: tuple[float, float]) -> None:
    rng, weights = np.random.default_rng(3), np.full(len(sizes), 1 / len(sizes))
    inside = []
    for _ in range(3000):
        found = contrast([rng.standard_normal(size) for size in sizes], weights)
        assert found.low is not None and found.high is not None
        inside.append(found.low <= 0 <= found.high)
    assert held[0] <= np.mean(inside) <= held[1]
