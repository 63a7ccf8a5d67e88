import numpy as np
import pytest

from sweep.adviser.evidence import evidence
from sweep.adviser.outcomes import Outcome


def given(arm: str, draw: int, value: float | None, fidelity: str = "full") -> Outcome:
    return Outcome(arm, draw, fidelity, () if value is None else (value,), 1.0, failed=value is None)


def test_a_catastrophe_is_counted_and_does_not_move_its_arm() -> None:
    found = [given(arm, draw, value) for arm in "abc" for draw, value in enumerate((0.0, 1.0, 2.0))]
    seen = evidence([*found, given("a", 3, 50.0)], "abc")
    assert seen.far.tolist() == [1, 0, 0]
    assert sorted(seen.full[0]) == [0, 1, 2]
    assert seen.tried.tolist() == [4, 3, 3]


def test_a_draw_that_is_far_off_at_one_fidelity_is_left_out_at_both() -> None:
    found = [given(arm, draw, draw, fidelity) for arm in "abc" for draw in range(3) for fidelity in ("screen", "full")]
    seen = evidence([*found, given("a", 3, 99.0, "screen"), given("a", 3, 1.0)], "abc")
    assert 3 not in seen.full[0] and 3 not in seen.screen[0]


def test_the_better_of_two_draws_far_apart_stays() -> None:
    found = [given(arm, draw, draw) for arm in "bcd" for draw in range(3)]
    seen = evidence([*found, given("a", 0, 40.0), given("a", 1, 0.0)], "abcd")
    assert list(seen.full[0]) == [1]


def test_an_arm_whose_draws_all_fail_is_not_alive() -> None:
    seen = evidence([given("a", 0, None), given("a", 1, None), given("b", 0, 1.0)], "abc")
    assert seen.alive.tolist() == [False, True, True]
    assert seen.lost.tolist() == [2, 0, 0]


def test_two_catastrophes_do_not_hide_each_other_among_few_draws() -> None:
    usual = {"a": (-2.5, -1.6, -1.4), "b": (0.0, 0.8, -0.5, 0.4), "c": (-1.3, 0.2), "d": (0.3, 1.1), "e": (1.0, 1.8)}
    found = [given(arm, draw, value) for arm, values in usual.items() for draw, value in enumerate(values)]
    seen = evidence([*found, given("a", 3, 7.2), given("c", 2, 7.4)], "abcde")
    assert seen.far.tolist() == [1, 0, 1, 0, 0]


def test_usual_draws_are_seldom_called_far_off() -> None:
    rng = np.random.default_rng(3)
    called = 0
    for _ in range(200):
        found = [given(arm, draw, float(rng.standard_normal())) for arm in "abcdefgh" for draw in range(3)]
        called += evidence(found, "abcdefgh").far.any()
    assert called <= 4


def test_without_two_draws_of_an_arm_nothing_is_far_off() -> None:
    assert not evidence([given("a", 0, 0.0), given("b", 0, 1e6)], "ab").far.any()


def test_outcomes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown arm 'z'"):
        evidence([given("z", 0, 1.0)], "ab")
    with pytest.raises(ValueError, match="a, draw 0: two outcomes at the fidelity 'full'"):
        evidence([given("a", 0, 1.0), given("a", 0, 2.0)], "ab")
    with pytest.raises(ValueError, match="one per target in each"):
        evidence([given("a", 0, 1.0), Outcome("b", 0, "full", (1.0, 2.0), 1.0)], "ab")
