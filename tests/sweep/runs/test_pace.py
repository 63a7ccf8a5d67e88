"""Whether a worker should load a model for trials that wait for others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sweep.runs.pace import Pace


@pytest.fixture
def pace() -> Pace:
    """Trials of a model take ten times as long as expected, and 14 s more where it is loaded for them."""
    found = Pace()
    for seconds, expected in ((9, 0.5), (11, 1.5)):
        found.ended(seconds, expected, loaded=False)
    for seconds, expected in ((24, 1), (34, 2)):
        found.ended(seconds, expected, loaded=True)
    return found


@pytest.mark.parametrize(
    ("waiting", "left", "worth"),
    [
        ([1], [9], False),
        ([1], [14], False),
        ([1], [15], True),
        ([1, 1], [3], False),
        ([1, 1], [5], True),
        ([1], [15, 2], False),
        ([1, 1], [15, 2], False),
        ([1, 1], [15, 5], True),
        ([1, 1, 1], [3, 2], False),
        ([1, 1, 1], [3, 5], False),
        ([1, 1, 1], [9, 5], True),
        ([1, 1, 1, 1], [9, 9, 3], False),
        ([1], [], True),
        ([0.1], [13], False),
        ([0.1], [15], True),
        ([3, 0.1], [3], False),
        ([3, 3], [3, 2], False),
        ([3, 0.1, 3], [3, 2], False),
        ([3, 3, 3], [3, 2], True),
    ],
)
def test_a_model_is_loaded_for_trials_that_would_end_later_otherwise(
    waiting: Sequence[float], left: Sequence[float], worth: bool, pace: Pace
) -> None:
    assert pace.worth_loading(waiting, left) is worth


@pytest.mark.parametrize(("left", "worth"), [(0.9, False), (1.1, True)])
def test_loading_takes_a_second_at_least_where_it_was_never_seen(left: float, worth: bool) -> None:
    pace = Pace()
    assert pace.worth_loading([1.0], [left])
    pace.ended(5.0, 1.0, loaded=False)
    assert pace.worth_loading([1.0], [left]) is worth


@pytest.mark.parametrize(("seconds", "loads", "left"), [(4, False, 16), (20, False, 0), (70, False, 50), (4, True, 30)])
def test_a_trial_that_takes_longer_than_usual_is_expected_to_take_as_much_longer_again(
    seconds: float, loads: bool, left: float, pace: Pace
) -> None:
    assert pace.left(seconds, 2.0, loads=loads) == left
