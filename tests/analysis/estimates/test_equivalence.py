"""Use one, any will do, cannot tell yet."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.estimates.equivalence import ANY, UNCLEAR, USE, answer
from analysis.estimates.posterior import posterior
from analysis.estimates.settle import OPTIONS, _far_shares, settling


def sources(means: tuple[float, ...], sets: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    noise = [rng.normal(0, 1, sets) for _ in means]
    return [mean + values - values.mean() for mean, values in zip(means, noise, strict=True)]


def test_the_three_answers() -> None:
    apart = answer(posterior(sources((0, 0, 5), 8)), 0.5)
    assert (apart.kind, apart.sources) == (USE, (2,))
    alike = answer(posterior(sources((0, 0.1, 0), 10)), 3.0)
    assert alike.kind == ANY
    assert set(alike.sources) == {0, 1, 2}
    assert alike.every > 0.9
    open_ = answer(posterior(sources((0, 0.6, 0.8), 3)), 0.1)
    assert open_.kind == UNCLEAR
    assert len(open_.sources) == 1
    assert open_.probability == open_.one < 0.9


def test_a_source_that_is_not_named_is_ruled_out_only_where_it_is_likely_to_be_further_away() -> None:
    alike = answer(posterior(sources((0, 0, 0, -9), 10)), 0.8)
    assert alike.kind == ANY
    assert len(alike.sources) == 2, "all three alike are within that with less than 90 %"
    assert alike.ruled_out == (3,)


def test_a_difference_of_no_size_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        answer(posterior(sources((0, 1), 3)), 0.0)


def test_what_matters_more_is_answered_sooner() -> None:
    known = posterior(sources((0, 0.6, 0.8), 3))
    chances = [answer(known, size).one for size in (0.1, 0.5, 1.0, 3.0)]
    assert chances == sorted(chances)


def test_further_sets_settle_what_sets_can_settle() -> None:
    known = posterior(sources((0, 0.6, 1.2), 3))
    plan = settling(known, 0.5)
    assert plan.sets in OPTIONS
    assert plan.chance > 0.7
    assert plan.never < 0.2
    assert settling(known, 0.5) == plan


def test_an_answer_to_come_names_several_of_sources_that_are_alike() -> None:
    alike = settling(posterior(sources((0, 0.1, 0.0, 0.1), 3)), 0.7)
    apart = settling(posterior(sources((0, 1.0, 4.0, 6.0), 2)), 0.7)
    assert alike.several > 0.6 > 0.2 > apart.several


def test_luck_of_the_test_is_settled_by_no_number_of_sets() -> None:
    plan = settling(posterior(sources((0, 0.6, 1.2), 3), noise=2.0), 0.2)
    assert plan.sets is None
    assert plan.never > 0.5


def test_what_is_promised_of_a_hundred_sets_is_said_once() -> None:
    for noise in (0.02, 0.05, 0.1):
        known = posterior(sources((0, 0.6, 1.2), 3), noise=noise)
        for matters in (0.1, 0.2):
            plan = settling(known, matters)
            least = 1 - plan.wanted
            if plan.sets is None:
                assert plan.never == max(1 - plan.chance, least)
            else:
                assert plan.never <= min(1 - plan.chance, least)


def test_two_sources_are_never_told_more_doubt_than_the_promise_leaves() -> None:
    """They are sought with a lower chance than the one that is stated, since answers come more often."""
    rng = np.random.default_rng(5)
    plans = [settling(posterior([rng.normal(0, 1, 3), rng.normal(0.8, 1, 3)]), 0.4) for _ in range(12)]
    named = [plan for plan in plans if plan.sets is not None]
    assert any(plan.chance < plan.wanted for plan in named)
    assert all(plan.never <= 1 - plan.wanted for plan in named)


def test_further_sets_are_far_off_as_often_as_those_at_hand() -> None:
    rng = np.random.default_rng(9)
    usual = [rng.normal(0, 1, 10) for _ in range(4)]
    failing = [*usual[:3], np.append(usual[3][:8], [-20.0, -21.0])]
    share = {name: _far_shares(posterior(g), rng).mean(axis=0) for name, g in (("u", usual), ("f", failing))}
    assert (share["u"] < 0.06).all()
    assert share["f"][3] > 0.08 > share["f"][0]
