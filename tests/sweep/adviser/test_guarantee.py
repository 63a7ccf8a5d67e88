import numpy as np
import pytest

from sweep.adviser.guarantee import FIRST, boundary_constant, race, rounds_needed
from sweep.adviser.outcomes import FULL, Outcome, Rules
from tests.sweep.adviser.conftest import arms_of


def played(truth: np.ndarray, rules: Rules, rng: np.random.Generator) -> tuple[str, int]:
    """(winner, rounds) of a race of normal draws."""
    arms, outcomes = arms_of(len(truth)), []
    while len((state := race(outcomes, arms, rules)).survivors) > 1:
        outcomes += [
            Outcome(arm, draw, FULL, (float(truth[arms.index(arm)] + rng.standard_normal()),), 1.0)
            for arm, draw in state.wanted
        ]
    return state.survivors[0], state.rounds


@pytest.mark.parametrize(
    ("arms", "constant", "rounds"), [(5, 8.2, (17, 8, 5)), (8, 9.0, (18, 8, 5)), (20, 10.2, (21, 10, 6))]
)
def test_the_constant_and_the_longest_race_are_those_of_kim_and_nelson(arms, constant, rounds) -> None:
    assert boundary_constant(arms, 0.1) == pytest.approx(constant, abs=0.05)
    assert tuple(rounds_needed(arms, 0.1, lead) for lead in (1.0, 1.5, 2.0)) == rounds


def test_the_best_arm_is_lost_no_more_often_than_stated() -> None:
    rng = np.random.default_rng(0)
    rules = Rules(budget=1, guarantee=True, matters=1.5, alpha=0.1, draws=40)
    truth = np.array([0.0, 1.5, 1.5, 1.5, 1.5])  # the least favourable case
    wins = [played(truth, rules, rng) for _ in range(300)]
    assert np.mean([winner != "arm0" for winner, _ in wins]) <= 0.1
    assert max(rounds for _, rounds in wins) > FIRST


def test_arms_that_are_far_behind_leave_at_once() -> None:
    rules = Rules(budget=1, guarantee=True, matters=2.0)
    assert played(np.array([0.0, 30.0, 30.0]), rules, np.random.default_rng(0)) == ("arm0", FIRST)


def full(arm: str, draw: int, value: float | None) -> Outcome:
    return Outcome(arm, draw, FULL, () if value is None else (value,), 1.0, failed=value is None)


def test_an_arm_that_fails_leaves() -> None:
    found = [full(arm, d, k + 0.1 * d) for k, arm in enumerate("abc") for d in range(3) if (arm, d) != ("a", 1)]
    state = race([*found, full("a", 1, None)], "abc", Rules(budget=1, guarantee=True))
    assert "a" not in state.survivors


def test_a_round_that_was_cut_off_is_completed() -> None:
    found = [full(arm, d, 0.1 * d + (d == 1) * 0.01 * k) for k, arm in enumerate("abc") for d in range(3)]
    rules = Rules(budget=1, guarantee=True, lead=1.0)
    assert set(race(found[:4], "abc", rules).wanted) == {("b", 1), ("b", 2), ("c", 0), ("c", 1), ("c", 2)}
    assert race(found, "abc", rules).wanted == (("a", 3), ("b", 3), ("c", 3))
    assert race([*found, full("a", 3, 0.0)], "abc", rules).wanted == (("b", 3), ("c", 3))


def test_several_targets_keep_the_best_of_each() -> None:
    rules = Rules(budget=1, guarantee=True, targets=("x", "y"))
    rng = np.random.default_rng(0)
    truth = {"a": (0.0, 50.0), "b": (50.0, 0.0), "c": (50.0, 50.0)}
    found = [Outcome(arm, d, FULL, tuple(truth[arm] + rng.standard_normal(2)), 1.0) for arm in "abc" for d in range(3)]
    assert set(race(found, "abc", rules).survivors) == {"a", "b"}
