"""Targets tell each other of what they have in common, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from sweep.adviser.hierarchy import PRIOR, RATIOS, RHO, Proposals, kept, resample


def proposals(seed: int, rho: float | None = None, ratio: float | None = None, count: int = 4000) -> Proposals:
    """From the priors, weighed around what a target saw; None where it saw nothing of it."""
    rng = np.random.default_rng(seed)
    rhos = 2 * rng.beta(*RHO, count) - 1
    ratios = rng.choice(RATIOS, count, p=PRIOR)
    log = np.zeros(count)
    if rho is not None:
        log -= ((rhos - rho) / 0.2) ** 2 / 2
    if ratio is not None:
        log -= (np.log(ratios / ratio) / 0.5) ** 2 / 2
    return Proposals(log, rhos, ratios)


def mean(found: list[Proposals], quantity: str, target: int = -1) -> float:
    chosen = kept(found, 1000, np.random.default_rng(0))[target]
    values = getattr(found[target], quantity)[chosen]
    return float(np.mean(values if quantity == "rho" else np.log(values)))


@pytest.mark.parametrize(("seen", "others"), [(0.95, range(1, 8)), (0.1, range(1, 8))])
def test_a_target_that_knows_nothing_of_its_screens_believes_the_others(seen: float, others: range) -> None:
    silent = proposals(0)
    alone = mean([silent], "rho")
    told = mean([*(proposals(n, rho=seen) for n in others), silent], "rho")
    assert abs(told - seen) < 0.6 * abs(alone - seen)


def test_targets_tell_each_other_how_far_apart_arms_lie() -> None:
    silent = proposals(0)
    far, near = (mean([*(proposals(n, ratio=ratio) for n in range(1, 8)), silent], "ratio") for ratio in (8.0, 0.3))
    assert far == pytest.approx(np.log(8), abs=0.5) and near == pytest.approx(np.log(0.3), abs=0.5)


def test_a_target_unlike_the_others_keeps_what_it_saw() -> None:
    own = proposals(0, ratio=0.3)
    told = mean([*(proposals(n, ratio=8.0) for n in range(1, 4)), own], "ratio")
    assert told < np.log(1.2)


def test_a_target_alone_keeps_the_prior_of_the_ratio() -> None:
    assert mean([proposals(0)], "ratio") == pytest.approx(float((PRIOR * np.log(RATIOS)).sum()), abs=0.15)


def test_laws_are_one_for_all_targets_in_each_draw() -> None:
    found = [proposals(n) for n in range(2)]
    first, second = kept(found, 4000, np.random.default_rng(0))
    assert np.corrcoef(np.log(found[0].ratio[first]), np.log(found[1].ratio[second]))[0, 1] > 0.5


def test_indices_come_as_often_as_their_weight_says() -> None:
    numbers = resample(np.array([1.0, 0.0, 3.0]), 400, np.random.default_rng(0))
    assert np.bincount(numbers, minlength=3) == pytest.approx([100, 0, 300], abs=1)
