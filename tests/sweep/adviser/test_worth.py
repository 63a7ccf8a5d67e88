from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from sweep.adviser.outcomes import FULL, Outcome, Rules
from sweep.adviser.posterior import Belief, believe
from sweep.adviser.worth import regret_after, regret_now
from tests.sweep.adviser.conftest import arms_of


@pytest.fixture(scope="module")
def belief() -> Belief:
    rng = np.random.default_rng(0)
    outcomes = [
        Outcome(arm, d, FULL, (float(0.3 * k + rng.standard_normal()),), 1.0)
        for k, arm in enumerate(arms_of(5))
        for d in range(3)
    ]
    return believe(outcomes, arms_of(5), Rules(budget=1), 4000)


def test_more_draws_are_never_worth_less(belief: Belief) -> None:
    regrets = [regret_after(belief, np.full(5, more)) for more in (0, 1, 4, 16, 1000)]
    assert regrets[0] == regret_now(belief)
    assert all(later < earlier for earlier, later in pairwise(regrets))
    assert regrets[-1] < 0.05 * regrets[0]


def test_draws_of_an_arm_that_cannot_be_best_are_worth_nothing(belief: Belief) -> None:
    hopeless = Belief(**{**belief.__dict__, "loss": belief.loss + np.array([0, 0, 0, 0, 50.0])})
    assert regret_after(hopeless, np.array([0, 0, 0, 0, 5.0])) == pytest.approx(regret_now(hopeless), rel=0.02)


def test_two_arms_are_worth_what_the_normal_law_says() -> None:
    rng = np.random.default_rng(1)
    known = np.array([0.0, 0.4]) + rng.standard_normal((200_000, 2)) * np.array([0.5, 0.8])
    base = believe([Outcome(a, d, FULL, (float(d),), 1.0) for a in "ab" for d in (0, 1)], "ab", Rules(budget=1))
    count = len(known)
    two = Belief(
        **{**base.__dict__, "loss": known, "truth": known[:, :, None], "spread": np.ones((count, 2, 1))},
    )
    gap, wide = 0.4, np.hypot(0.5, 0.8)
    perfect = wide * stats.norm.pdf(gap / wide) - gap * stats.norm.sf(gap / wide)
    assert regret_now(two) == pytest.approx(perfect, rel=0.02)
    # two more draws of the second arm: its mean moves by sd sqrt(v^2 / (v + 1/2))
    moves = 0.8**2 / np.sqrt(0.8**2 + 0.5)
    gained = moves * stats.norm.pdf(gap / moves) - gap * stats.norm.sf(gap / moves)
    assert regret_after(two, np.array([0.0, 2.0])) == pytest.approx(perfect - gained, rel=0.03)
