"""Variance components on data whose components are known, and against independent estimators."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest

from analysis.estimates.components import (
    COMPONENTS,
    SMALL,
    _relative_covariance,
    complete_examples,
    components,
    components_of,
    summarise,
)
from analysis.simulate import Components, simulate_outcomes


def estimate(outcomes: np.ndarray, seed: int = 0, draws: int = 400):  # type: ignore[no-untyped-def]
    """Components of outcomes [sources, sets, examples]."""
    sources, sets, examples = outcomes.shape
    matrix = outcomes.reshape(sources * sets, examples)
    return components([matrix], np.repeat(np.arange(sources), sets).tolist(), np.random.default_rng(seed), draws)


def truth(c: Components, examples: int, binary: bool) -> np.ndarray:
    """What each component adds to the variance of a mean over examples."""
    known = c.source**2 + c.set**2 + c.example**2 + c.source_example**2
    residual = c.mean * (1 - c.mean) - known if binary else c.residual**2
    return np.array([c.source**2, c.set**2, *(np.array([c.example**2, c.source_example**2, residual]) / examples)])


DESIGNS = [
    pytest.param(8, 10, 300, Components(), False, id="continuous"),
    pytest.param(6, 5, 200, Components(source=0.03, set=0.03), False, id="continuous few sets"),
    pytest.param(8, 10, 300, Components(mean=0.5, source=0.03, set=0.02), True, id="right or wrong"),
]


def coverage(
    design: tuple[int, int, int], c: Components, binary: bool, simulations: int
) -> tuple[np.ndarray, np.ndarray]:
    """(share of 95 % intervals that hold the truth, mean estimate over truth), per component."""
    rng = np.random.default_rng(20240601)
    true, hits, total, printed = truth(c, design[2], binary), np.zeros(5), np.zeros(5), np.zeros(5)
    for _ in range(simulations):
        found = estimate(simulate_outcomes(rng, *design, c, binary), seed=int(rng.integers(2**31)))
        low, high = found.interval()
        hits += (low <= true) & (true <= high)
        printed += ~np.isnan(low)  # there is none where a set looks far off, which a normal one does now and then
        total += found.variance
    assert (printed > 0.85 * simulations).all()
    return hits / printed, total / simulations / true


@pytest.mark.parametrize(("sources", "sets", "examples", "c", "binary"), DESIGNS)
def test_intervals_hold_the_truth_and_estimates_are_unbiased(
    sources: int, sets: int, examples: int, c: Components, binary: bool
) -> None:
    covered, bias = coverage((sources, sets, examples), c, binary, 60)
    assert (covered >= 0.86).all()  # four standard errors of 60 simulations below 0.95 is 0.84; the long run is below
    assert np.abs(bias - 1).max() < 0.25


@pytest.mark.slow
@pytest.mark.parametrize(("sources", "sets", "examples", "c", "binary"), DESIGNS)
def test_coverage_of_95_percent_intervals_is_between_92_and_98_percent(
    sources: int, sets: int, examples: int, c: Components, binary: bool
) -> None:
    covered, bias = coverage((sources, sets, examples), c, binary, 1500)
    assert (covered >= 0.925).all(), covered
    assert (covered <= 0.98).all(), covered
    assert np.abs(bias - 1).max() < 0.06


def test_plain_resampling_of_few_sources_would_miss_the_truth() -> None:
    """Why the mean squares of sources are drawn from their pivot."""
    rng = np.random.default_rng(5)
    plain = pivot = 0
    for _ in range(200):
        effects = rng.normal(0, 1, 6)
        resampled = effects[rng.integers(0, 6, (400, 6))].var(axis=1, ddof=1)
        low, high = np.quantile(resampled, [0.025, 0.975])
        plain += low <= 1 <= high
        low, high = np.quantile(effects.var(ddof=1) * 5 / rng.chisquare(5, 400), [0.025, 0.975])
        pivot += low <= 1 <= high
    assert plain / 200 < 0.85
    assert pivot / 200 > 0.9


def test_mean_squares_agree_with_the_textbook_analysis_of_variance() -> None:
    """The five components by sums of squares over the whole cube, written out."""
    y = simulate_outcomes(np.random.default_rng(1), 4, 3, 50, Components(source=0.1, set=0.1))
    sources, sets, examples = y.shape
    m = y.mean()
    by_s, by_sk, by_e, by_se = y.mean(axis=(1, 2)), y.mean(axis=2), y.mean(axis=(0, 1)), y.mean(axis=1)
    ms_s = sets * examples * ((by_s - m) ** 2).sum() / (sources - 1)
    ms_k = examples * ((by_sk - by_s[:, None]) ** 2).sum() / (sources * (sets - 1))
    ms_e = sources * sets * ((by_e - m) ** 2).sum() / (examples - 1)
    ms_se = sets * ((by_se - by_s[:, None] - by_e + m) ** 2).sum() / ((sources - 1) * (examples - 1))
    rest = y - by_sk[:, :, None] - by_se[:, None, :] + by_s[:, None, None]
    ms_r = (rest**2).sum() / (sources * (sets - 1) * (examples - 1))
    expected = [
        (ms_s - ms_k - ms_se + ms_r) / (sets * examples),
        (ms_k - ms_r) / examples,
        (ms_e - ms_se) / (sources * sets) / examples,
        (ms_se - ms_r) / sets / examples,
        ms_r / examples,
    ]
    assert np.allclose(estimate(y).variance, expected)


def test_balanced_estimates_equal_reml() -> None:
    """Crossed and nested random effects by statsmodels' mixed model, restricted likelihood."""
    mixedlm = pytest.importorskip("statsmodels.formula.api").mixedlm
    c = Components(source=0.4, set=0.3, example=0.5, source_example=0.0, residual=0.2)
    y = simulate_outcomes(np.random.default_rng(3), 6, 4, 8, c)
    s, k, e = np.indices(y.shape)
    data = {"y": y.ravel(), "s": s.ravel(), "k": (s * 10 + k).ravel(), "e": e.ravel(), "se": (s * 100 + e).ravel()}
    frame = pl.DataFrame({"one": np.ones(y.size), **data}).to_pandas()
    parts = {"source": "0 + C(s)", "set": "0 + C(k)", "example": "0 + C(e)", "crossed": "0 + C(se)"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # statsmodels warns of a component at its boundary
        fit = mixedlm("y ~ 1", frame, groups="one", vc_formula=parts, re_formula="0").fit(reml=True)
    named = dict(zip(fit.model.exog_vc.names, fit.vcomp, strict=True))
    found = estimate(y).variance * np.array([1, 1, 8, 8, 8])
    assert np.allclose(found[[0, 1, 2]], [named["source"], named["set"], named["example"]], rtol=0.02)
    assert np.isclose(found[3] + found[4], named["crossed"] + fit.scale, rtol=0.05)


def test_nested_trial_means_equal_reml() -> None:
    """Source and set from trial means alone, against a one-way mixed model."""
    mixedlm = pytest.importorskip("statsmodels.formula.api").mixedlm
    y = simulate_outcomes(np.random.default_rng(8), 8, 6, 400, Components(source=0.1, set=0.05))
    frame = pl.DataFrame({"y": 100 * y.mean(axis=2).ravel(), "s": np.repeat(np.arange(8), 6)}).to_pandas()
    fit = mixedlm("y ~ 1", frame, groups="s").fit(reml=True)
    found = estimate(100 * y).variance
    assert np.isclose(found[0] + found[3], fit.cov_re.iloc[0, 0], rtol=1e-3)
    assert np.isclose(found[1] + found[4], fit.scale, rtol=1e-3)


def test_unbalanced_sources_are_unbiased() -> None:
    c = Components(source=0.05, set=0.04)
    rng = np.random.default_rng(11)
    counts = [2, 3, 5, 8, 4, 1]
    total = np.zeros(5)
    for _ in range(300):
        y = simulate_outcomes(rng, len(counts), max(counts), 150, c)
        rows = [y[s, k] for s, count in enumerate(counts) for k in range(count)]
        names = np.repeat(np.arange(len(counts)), counts).tolist()
        total += components([np.stack(rows)], names, rng, draws=2).variance
    assert np.abs(total / 300 / truth(c, 150, False) - 1).max() < 0.15


def test_examples_that_a_trial_lacks_are_left_out_and_counted() -> None:
    y = simulate_outcomes(np.random.default_rng(2), 3, 3, 60, Components())
    holes = y.copy()
    holes[1, 2, :7] = np.nan
    found = estimate(holes)
    assert found.dropped == 7
    assert np.allclose(found.variance, estimate(y[:, :, 7:]).variance)


def test_identical_sets_have_no_source_and_set_component() -> None:
    """A method that ignores its calibration data: the null control, run through the whole estimator."""
    one = (np.random.default_rng(0).random((1, 1, 300)) < 0.7).astype(float)
    found = estimate(np.broadcast_to(one, (5, 4, 300)))
    _, high = found.interval()
    for name in ("source", "set within source", "source × example", "set × example and noise"):
        index = COMPONENTS.index(name)
        assert abs(found.variance[index]) < 1e-12
        assert high[index] < 1e-12
    assert found.variance[COMPONENTS.index("test examples")] > 0


def test_mean_over_tasks_adds_up_independent_tasks() -> None:
    rng = np.random.default_rng(4)
    one = simulate_outcomes(rng, 5, 4, 200, Components()).reshape(20, 200)
    two = simulate_outcomes(rng, 5, 4, 100, Components()).reshape(20, 100)
    names = np.repeat(np.arange(5), 4).tolist()
    both = components([one, two], names, rng).variance
    apart = [components([m], names, rng).variance for m in (one, two)]
    for index in (2, 3, 4):  # what the examples bring
        assert np.isclose(both[index], (apart[0][index] + apart[1][index]) / 4)


@pytest.mark.parametrize(("sources", "sets", "unknown"), [(1, 5, [0, 3]), (4, 1, [0, 1, 3, 4]), (1, 1, [0, 1, 3, 4])])
def test_what_a_design_cannot_tell_is_null(sources: int, sets: int, unknown: list[int]) -> None:
    found = estimate(simulate_outcomes(np.random.default_rng(0), sources, sets, 80, Components()))
    assert set(unknown) <= set(np.flatnonzero(np.isnan(found.variance)))


@pytest.mark.parametrize("shared", [0, 1])
def test_fewer_than_two_shared_examples_estimate_nothing(shared: int) -> None:
    y = simulate_outcomes(np.random.default_rng(0), 2, 2, 20 + shared, Components()).reshape(4, -1)
    for trial in range(4):
        y[trial, trial * 5 : trial * 5 + 5] = np.nan
    found = components([y], [0, 0, 1, 1], np.random.default_rng(0), draws=5)
    assert np.isnan(found.variance).all()
    assert found.dropped == 20


def test_another_seed_moves_intervals_and_not_estimates() -> None:
    y = simulate_outcomes(np.random.default_rng(6), 5, 4, 100, Components())
    one, two, again = estimate(y, 1), estimate(y, 2), estimate(y, 1)
    assert np.array_equal(one.variance, two.variance)
    assert not np.array_equal(one.interval()[1], two.interval()[1])
    assert np.array_equal(one.interval()[1], again.interval()[1])


def test_tasks_summarised_once_give_the_components_of_their_outcomes() -> None:
    rng = np.random.default_rng(11)
    sources = ["b", "a", "b", "a", "c", "c"]
    matrices = [rng.normal(size=(6, 30)), rng.normal(size=(6, 12))]
    matrices[0][2, 5] = np.nan
    sums = [summarise(matrix, sources) for matrix in matrices]
    assert [task.dropped for task in sums] == [1, 0]
    kept = np.delete(matrices[0], 5, axis=1)
    assert np.array_equal(complete_examples(matrices[0]), kept)
    assert np.allclose(sums[0].scores, kept.mean(axis=1))
    for chosen in ([0], [1], [0, 1]):
        one = components([matrices[i] for i in chosen], sources, np.random.default_rng(0), 50)
        two = components_of([sums[i] for i in chosen], sources, np.random.default_rng(0), 50)
        assert np.array_equal(one.variance, two.variance)
        assert np.array_equal(one.draws, two.draws, equal_nan=True)
        assert one.examples == two.examples == sum((29, 12)[i] for i in chosen)
        assert one.dropped == two.dropped == (0 in chosen)


def test_intervals_of_many_small_tasks_lie_around_the_estimate() -> None:
    rng = np.random.default_rng(12)
    owner = np.repeat(np.arange(4), 3).tolist()
    chance = 0.3 + 0.6 * rng.random((25, 1, 20))
    found = components(list((rng.random((25, 12, 20)) < chance).astype(float)), owner, rng)
    assert np.allclose(np.median(found.draws[:, [2, 4]], axis=0) / found.variance[[2, 4]], 1, atol=0.05)


def test_component_of_examples_needs_examples_that_are_answered_in_different_ways() -> None:
    rng = np.random.default_rng(13)
    owner = np.repeat(np.arange(6), 3).tolist()
    for unlike, known in ((30, False), (60, True)):
        matrix = np.ones((18, 80))
        matrix[:, :unlike] = rng.random((18, unlike)) < rng.random(unlike)
        found = components([matrix], owner, rng)
        assert (found.reasons[2] == "") == known == bool(np.isfinite(found.interval()[0][2]))


def test_two_sets_of_one_of_two_sources_have_no_interval_of_their_sd() -> None:
    rng = np.random.default_rng(0)
    for sets, told in (((2, 6), True), ((2, 2), False), ((3, 6), False)):
        owner = [name for name, count in zip("ab", sets, strict=True) for _ in range(count)]
        matrix = rng.normal(size=(len(owner), 1)) + rng.normal(size=(len(owner), 60))
        found = components([matrix], owner, rng, draws=50)
        assert (found.reasons[1] == "no interval: one of two sources has two sets only") is told
        assert np.isnan(found.interval()[0][1]) == told


def test_few_examples_of_a_task_widen_source_by_example() -> None:
    squares = np.random.default_rng(0).chisquare(1, (3, 20))
    plain = np.cov(squares / squares.mean(axis=1, keepdims=True)) / 20
    allowed = _relative_covariance(squares)
    assert np.isclose(allowed[0, 0], plain[0, 0])
    assert np.isclose(allowed[1, 1], plain[1, 1] * (1 + SMALL / 20))
