"""The joint posterior of sources: what is said of the leader, of pairs and of new sets."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from analysis.estimates.posterior import posterior


def test_one_source_or_no_spread_is_refused() -> None:
    with pytest.raises(ValueError, match="needs two"):
        posterior([np.array([1.0, 2.0])])
    with pytest.raises(ValueError, match="no two sets"):
        posterior([np.ones(2), np.zeros(2)])


def test_leader_of_equal_sources_is_not_said_to_win() -> None:
    rng = np.random.default_rng(0)
    stated, best = [], []
    for _ in range(120):
        known = posterior([rng.normal(0, 1, 6), rng.normal(0, 1, 6)], draws=500)
        leader = int(known.truth.mean(axis=0).argmax())
        stated.append(known.wins(leader, 1 - leader))
        best.append(float(known.best[leader]))
    assert np.mean(stated) < 0.6  # the truth is 0.5; the raw gap states 0.65
    assert np.mean(best) < 0.7


def test_a_wins_on_a_new_draw_as_often_as_stated_for_sources_of_every_size() -> None:
    rng = np.random.default_rng(1)
    said, happened = [], []
    for _ in range(300):
        truth, sd = rng.normal(0, 1.5, 2), np.array([1.0, 3.0])
        known = posterior([rng.normal(truth[i], sd[i], (4, 8)[i]) for i in range(2)], draws=500)
        said.append(known.wins(0, 1))
        happened.append(special.ndtr((truth[0] - truth[1]) / 10**0.5))  # how often it would
    sure = np.array(said) > 0.6
    assert abs(np.mean(np.array(said)[sure]) - np.mean(np.array(happened)[sure])) < 0.08


def test_noise_that_no_set_removes_keeps_the_answer_open() -> None:
    rng = np.random.default_rng(2)
    groups = [rng.normal(mean, 0.1, 10) for mean in (0.0, 1.0, 0.5)]
    assert posterior(groups).best[1] > 0.99
    assert posterior(groups, noise=1.0).best[1] < 0.8


def test_probabilities_of_being_best_sum_to_one_and_regret_of_the_best_is_zero() -> None:
    rng = np.random.default_rng(3)
    known = posterior([rng.normal(0, 1, 3) for _ in range(5)])
    assert np.isclose(known.best.sum(), 1)
    assert np.isclose(known.best_single_set.sum(), 1)
    assert (known.regret.min(axis=1) == 0).all()
    mean, low, high = known.gap(0, 1)
    assert low < mean < high
