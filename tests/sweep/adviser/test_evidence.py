import numpy as np
import pytest

from sweep.adviser.evidence import evidence, usual_variance
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


def test_the_usual_variance_does_not_hear_one_wild_arm() -> None:
    rng = np.random.default_rng(0)
    groups = [rng.standard_normal((4, 1)) for _ in range(400)]
    assert usual_variance([*groups, 1000 * groups[0]])[0] == pytest.approx(1.0, rel=0.15)
    assert usual_variance([groups[0][:1]]) is None


def test_outcomes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown arm 'z'"):
        evidence([given("z", 0, 1.0)], "ab")
    with pytest.raises(ValueError, match="a, draw 0: two outcomes at the fidelity 'full'"):
        evidence([given("a", 0, 1.0), given("a", 0, 2.0)], "ab")
    with pytest.raises(ValueError, match="one per target in each"):
        evidence([given("a", 0, 1.0), Outcome("b", 0, "full", (1.0, 2.0), 1.0)], "ab")
