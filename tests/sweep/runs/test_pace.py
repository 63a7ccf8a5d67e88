"""Whether a worker should load a model for trials that wait for others."""

from __future__ import annotations

import pytest

from sweep.runs.pace import Paces


@pytest.fixture
def paces() -> Paces:
    """Trials of a model take 10 s, and 24 s where it is loaded for them."""
    found = Paces()
    for seconds in (9, 11):
        found.ended("model", seconds, loaded=False)
    found.ended("model", 24, loaded=True)
    return found


@pytest.mark.parametrize(
    ("waiting", "holders", "worth"),
    [(1, 1, False), (2, 1, True), (1, 2, False), (2, 2, False), (3, 2, True), (1, 0, True)],
)
def test_a_model_is_loaded_for_trials_that_would_end_later_otherwise(
    waiting: int, holders: int, worth: bool, paces: Paces
) -> None:
    assert paces.worth_loading("model", waiting, holders) is worth


def test_loading_takes_a_second_at_least_where_it_was_never_seen(paces: Paces) -> None:
    for seconds, worth in ((0.5, False), (2.0, True)):
        paces.ended(seconds, seconds, loaded=False)
        assert paces.worth_loading(seconds, waiting=1, holders=1) is worth
    assert paces.worth_loading("of which nothing is known", waiting=1, holders=1)


def test_a_trial_is_late_after_three_times_what_is_usual(paces: Paces) -> None:
    assert (paces.late("model", 71), paces.late("model", 73)) == (False, True)
    assert not paces.late("of which nothing is known", 1e6)
