import numpy as np
import pytest

from sweep.adviser.mixture import Surface, checks, fit, lattice, propose, rounded


def surface(sources: int = 4, targets: int = 2, seed: int = 0) -> Surface:
    rng = np.random.default_rng(seed)
    pairs = sources * (sources - 1) // 2
    linear, products = rng.standard_normal((sources, targets)), 2 * rng.standard_normal((pairs, targets)) - 2
    return Surface(linear, products, np.zeros(targets))


def test_the_lattice_holds_every_source_and_every_pair() -> None:
    points = lattice(4)
    assert points.shape == (10, 4) and np.allclose(points.sum(axis=1), 1)
    assert (points[:4] == np.eye(4)).all()
    assert checks(4).shape == (5, 4) and (checks(4)[0] == 0.25).all()


def test_a_quadratic_is_found_exactly() -> None:
    true = surface()
    weights = np.vstack([lattice(4), checks(4)])
    found = fit(weights, true.predict(weights))
    other = np.random.default_rng(1).dirichlet(np.ones(4), 50)
    assert found.predict(other) == pytest.approx(true.predict(other), abs=1e-3)


def test_noise_without_interactions_leaves_a_plane() -> None:
    rng = np.random.default_rng(0)
    weights = np.vstack([lattice(6), checks(6)])
    true = Surface(rng.standard_normal((6, 1)), np.zeros((15, 1)), np.zeros(1))
    found = fit(weights, true.predict(weights) + 0.3 * rng.standard_normal((len(weights), 1)))
    assert np.abs(found.pairs).max() < 0.3
    assert found.error[0] == pytest.approx(0.3, rel=0.5)


def test_the_proposal_is_at_least_as_good_as_any_of_many_mixtures() -> None:
    true = surface(5, 3)
    best = propose(true)[0]
    tried = np.random.default_rng(0).dirichlet(np.full(5, 0.7), 50_000)
    assert best.sum() == pytest.approx(1) and best.min() >= 0
    assert true.regret(best).max() <= true.regret(tried).max(axis=1).min() + 1e-6


def test_a_target_of_a_larger_unit_counts_less() -> None:
    linear = np.array([[0.0, 1.0], [1.0, 0.0]])
    flat = Surface(linear, np.zeros((1, 2)), np.zeros(2))
    assert propose(flat)[0] == pytest.approx([0.5, 0.5], abs=1e-4)
    assert propose(flat, unit=np.array([1.0, 4.0]))[0] == pytest.approx([0.8, 0.2], abs=1e-3)


def test_proposals_are_whole_windows_and_differ() -> None:
    found = propose(surface(6, 2), 3, step=1 / 16)
    assert np.allclose(found * 16, np.round(found * 16)) and np.allclose(found.sum(axis=1), 1)
    assert len({tuple(row) for row in found.tolist()}) == len(found)
    with pytest.raises(ValueError, match="expected 1 divided by a whole number"):
        rounded(np.array([0.5, 0.5]), 0.3)


def test_the_largest_remainders_are_rounded_up() -> None:
    assert rounded(np.array([0.4, 0.35, 0.25]), 0.5).tolist() == [0.5, 0.5, 0.0]


def test_points_that_cannot_tell_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of numbers of at least 0 whose sum is 1"):
        fit(np.array([[0.5, 0.6]]), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="1 points do not tell 2 sources apart"):
        fit(np.array([[0.5, 0.5]]), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="losses: expected finite numbers"):
        fit(np.eye(2), np.array([[1.0], [np.nan]]))
