import numpy as np
import pytest

from sweep.adviser.evidence import evidence
from sweep.adviser.outcomes import FULL, SCREEN, Outcome, Rules
from sweep.adviser.posterior import believe
from sweep.adviser.scales import anticipated

Draws = list[dict[int, np.ndarray]]


def drawn(ratios: np.ndarray, arms: int, screens: int, fulls: int, seed: int = 0) -> tuple[Draws, Draws]:
    """Normal screens of SDs 1, 2, ... by target, and full draws whose SDs are `ratios` times those."""
    rng = np.random.default_rng(seed)
    sd = np.arange(1.0, len(ratios) + 1)
    screen = [{d: sd * rng.standard_normal(len(sd)) for d in range(screens)} for _ in range(arms)]
    full = [{d: ratios * sd * rng.standard_normal(len(sd)) for d in range(fulls)} for _ in range(arms)]
    return screen, full


def small_by_luck(screen: Draws, full: Draws, target: int) -> Draws:
    """The same full draws, but those of an arm hardly differ on one target."""
    keep = np.arange(len(screen[0][0])) != target
    return [{d: v * np.where(keep, 1.0, 1e-3) for d, v in draws.items()} for draws in full]


def outcomes_of(screen: Draws, full: Draws) -> list[Outcome]:
    return [
        Outcome(f"arm{k}", d, fidelity, tuple(v.tolist()), 1.0)
        for fidelity, found in ((SCREEN, screen), (FULL, full))
        for k, draws in enumerate(found)
        for d, v in draws.items()
    ]


def test_the_variance_of_full_draws_is_foreseen_from_screens_and_the_other_targets() -> None:
    found = [anticipated(*drawn(np.full(6, 0.5), 60, 3, 3, seed)) for seed in range(20)]
    variance = np.median([variance for variance, _ in found], axis=0)
    assert variance == pytest.approx((0.5 * np.arange(1, 7)) ** 2, rel=0.15)
    assert np.median([freedom for _, freedom in found]) > 30


def test_a_variance_that_is_small_by_luck_has_no_say_in_what_is_expected_of_its_target() -> None:
    screen, full = drawn(np.full(8, 0.5), 9, 3, 2, seed=1)
    plain, _ = anticipated(screen, full)
    found, freedom = anticipated(screen, small_by_luck(screen, full, 3))
    assert found[3] == pytest.approx(plain[3])
    assert freedom[3] > 3


def test_targets_whose_ratios_are_unlike_tell_each_other_little() -> None:
    _, alike = anticipated(*drawn(np.full(8, 0.5), 20, 3, 3, seed=1))
    _, unlike = anticipated(*drawn(0.5 * 10.0 ** np.array([-2, -1, 0, 0.5, 1, 1.5, 2, 3]), 20, 3, 3))
    assert unlike[0] < 2 < alike[0]


def test_degrees_are_at_most_those_of_the_screens() -> None:
    _, freedom = anticipated(*drawn(np.full(8, 0.5), 9, 3, 2))
    assert (freedom <= 18 + 1e-6).all()


@pytest.mark.parametrize("case", ["one target", "no screens", "one full draw of each"])
def test_nothing_is_foreseen_where_nothing_is_to_be_learned(case: str) -> None:
    screen, full = drawn(np.full(1 if case == "one target" else 4, 0.5), 5, 3, 1 if case.startswith("one full") else 2)
    screen = [{} for _ in screen] if case == "no screens" else screen
    variance, freedom = anticipated(screen, full)
    assert not freedom.any() and len(variance) == len(full[0][0])


def test_a_target_whose_few_full_draws_agree_by_luck_does_not_decide_alone() -> None:
    screen, full = drawn(np.full(8, 0.5), 9, 3, 2, seed=1)
    lucky = small_by_luck(screen, full, 3)
    rules = Rules(1e6, tuple("abcdefgh"))
    arms = [f"arm{k}" for k in range(9)]
    belief = believe(outcomes_of(screen, lucky), arms, rules)
    assert belief.sd[3] > 0.3 * believe(outcomes_of(screen, full), arms, rules).sd[3]
    assert not evidence(outcomes_of(screen, lucky), arms).far.any()


def test_without_screens_the_unit_is_as_unknown_as_the_sd() -> None:
    screen, full = drawn(np.full(8, 0.5), 9, 3, 2, seed=1)
    arms = [f"arm{k}" for k in range(9)]
    outcomes = outcomes_of([{} for _ in screen], full)
    worst = believe(outcomes, arms, Rules(1e6, tuple("abcdefgh")))
    fixed = (worst.truth - worst.truth.min(axis=1, keepdims=True)) / worst.sd
    assert worst.loss.std() > 1.05 * fixed.max(axis=2).std()
