import numpy as np
import pytest

from sweep.adviser.outcomes import FULL, SCREEN, Costs, Outcome, Rules, Trial
from sweep.adviser.posterior import _centres, _gls, _Sums, believe
from tests.sweep.adviser.conftest import arms_of, losses_of, outcome

RULES = Rules(budget=1)
COSTS = Costs(0.1, 1.0)


def table(truth: np.ndarray, screens: int, fulls: int, sd: float = 1.0) -> list[Outcome]:
    losses = losses_of(truth, sd)
    counts = ((SCREEN, screens), (FULL, fulls))
    trials = [Trial(arm, d, f) for arm in arms_of(len(truth)) for f, count in counts for d in range(count)]
    return [outcome(trial, losses, COSTS) for trial in trials]


def test_many_draws_leave_the_means_of_the_full_draws() -> None:
    outcomes = table(np.array([0.0, 1.0, 3.0, 4.0]), 3, 60)
    belief = believe(outcomes, arms_of(4), RULES)
    means = [np.mean([o.values[0] for o in outcomes if o.arm == arm and o.fidelity == FULL]) for arm in arms_of(4)]
    assert belief.truth[:, :, 0].mean(axis=0) == pytest.approx(means, abs=0.1)
    assert belief.truth[:, 0, 0].std() == pytest.approx(60**-0.5, rel=0.25)
    assert belief.sd[0] == pytest.approx(1.0, rel=0.15)
    assert belief.best[0] == 1.0 and belief.leader == 0


def test_the_order_of_outcomes_changes_nothing() -> None:
    outcomes = table(np.arange(4.0), 3, 2)
    shuffled = [outcomes[i] for i in np.random.default_rng(1).permutation(len(outcomes))]
    assert np.array_equal(believe(outcomes, arms_of(4), RULES).loss, believe(shuffled, arms_of(4), RULES).loss)


def test_other_outcomes_give_other_draws() -> None:
    outcomes = table(np.arange(4.0), 3, 2)
    assert not np.array_equal(believe(outcomes, arms_of(4), RULES).loss, believe(outcomes[:-1], arms_of(4), RULES).loss)


def test_level_and_unit_of_the_losses_do_not_matter() -> None:
    outcomes = table(np.arange(4.0), 3, 2)
    scaled = [Outcome(o.arm, o.draw, o.fidelity, (1e4 + 1e-3 * o.values[0],), o.seconds) for o in outcomes]
    plain, other = (believe(found, arms_of(4), RULES, 4000) for found in (outcomes, scaled))
    assert (other.truth - 1e4).mean(axis=0) * 1e3 == pytest.approx(plain.truth.mean(axis=0), abs=0.1)
    assert other.expected_regret * 1e3 == pytest.approx(plain.expected_regret, abs=0.1)


def test_screens_move_the_belief_only_as_far_as_they_have_proved_to_tell() -> None:
    truth = np.linspace(0, 8, 9)
    outcomes = [o for o in table(truth, 4, 4, 0.3) if o.fidelity == SCREEN or o.arm != "arm8"]
    assert believe(outcomes, arms_of(9), RULES).truth[:, 8, 0].mean() == pytest.approx(8, abs=1.0)
    other = dict(zip(arms_of(9), np.random.default_rng(0).permutation(arms_of(9)), strict=True))
    mixed = [Outcome(other[o.arm] if o.fidelity == SCREEN else o.arm, *_rest(o)) for o in outcomes]
    vague = believe(mixed, arms_of(9), RULES)
    assert vague.rho.mean() < 0.6
    assert vague.truth[:, 8, 0].std() > 2


def _rest(o: Outcome) -> tuple:
    return o.draw, o.fidelity, o.values, o.seconds


def test_an_arm_without_a_success_is_never_best() -> None:
    outcomes = table(np.arange(4.0), 3, 2)
    failed = [Outcome(o.arm, *_rest(o)[:2], (), 1.0, failed=True) if o.arm == "arm0" else o for o in outcomes]
    belief = believe(failed, arms_of(4), RULES)
    assert belief.best[0] == 0 and np.isinf(belief.loss[:, 0]).all()
    assert np.isfinite(belief.expected_regret[1:]).all()


def test_an_arm_whose_draws_are_often_far_off_pays_for_it() -> None:
    outcomes = table(np.zeros(6), 0, 6, 0.5)
    bad = [
        Outcome(o.arm, o.draw, o.fidelity, (o.values[0] + 50 * (o.arm == "arm0" and o.draw < 3),), 1.0)
        for o in outcomes
    ]
    belief = believe(bad, arms_of(6), RULES)
    assert belief.rate[:, 0].mean() > 2 * belief.rate[:, 1].mean()
    assert belief.expected_regret[0] > belief.expected_regret[1:].max()


def test_the_worst_draws_decide_under_the_quantile_criterion() -> None:
    rng = np.random.default_rng(3)
    outcomes = [
        Outcome(arm, draw, FULL, (float(-0.5 * (arm == "arm0") + sd * rng.standard_normal()),), 1.0)
        for arm, sd in zip(arms_of(4), (4.0, 0.2, 0.2, 0.2), strict=True)
        for draw in range(8)
    ]
    quantile = Rules(budget=1, criterion="lower-quantile")
    assert believe(outcomes, arms_of(4), quantile).best[0] < 0.02
    assert believe(outcomes, arms_of(4), RULES).best[0] > 0.1


def test_several_targets_are_weighed_by_their_worst_regret() -> None:
    truth = np.array([[0.0, 10.0], [10.0, 0.0], [3.0, 3.0]])
    belief = believe(table(truth, 3, 3), arms_of(3), Rules(budget=1, targets=("a", "b"), matters=0.5))
    assert belief.best[2] > 0.95
    assert belief.loss[:, 2].mean() == pytest.approx(3, abs=1.0)


def test_stated_probabilities_come_true() -> None:
    rng = np.random.default_rng(5)
    stated, hits = [], []
    for _ in range(60):
        truth = rng.standard_normal(6)
        draws = [
            Outcome(arm, d, FULL, (float(truth[k] + rng.standard_normal()),), 1.0)
            for k, arm in enumerate(arms_of(6))
            for d in range(3)
        ]
        belief = believe(draws, arms_of(6), RULES)
        stated.append(belief.best[belief.leader])
        hits.append(truth.argmin() == belief.leader)
    assert np.mean(stated) == pytest.approx(np.mean(hits), abs=3 * 0.5 / 60**0.5)


def test_nothing_to_learn_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="no trial has a finite loss"):
        believe([Outcome("arm0", 0, FULL, (), 1.0, failed=True)], arms_of(2), RULES)
    with pytest.raises(ValueError, match="1 arm: a comparison needs two"):
        believe([], arms_of(1), RULES)


def test_losses_without_any_spread_are_believed() -> None:
    outcomes = [Outcome(arm, d, FULL, (float(k),), 1.0) for k, arm in enumerate(arms_of(3)) for d in range(2)]
    assert believe(outcomes, arms_of(3), RULES).leader == 0


# the closed forms, against the plainest correct versions


def test_centres_are_least_squares_of_paired_and_single_draws() -> None:
    rng = np.random.default_rng(0)
    n = np.array([[2.0, 1.0], [3.0, 2.0], [1.0, 2.0]])
    low, high = rng.standard_normal((2, 2, 2))
    sums = _Sums(n, low, high, np.zeros((2, 2)), np.zeros((2, 2)), (0.0, 0.0), np.ones(2))
    s, factor, r = np.array([[2.0, 0.5]]), np.array([[1.0, 3.0]]), np.array([0.7])
    m, v = _centres(sums, (0.0, 0.0), s, factor, r)
    for k in range(2):
        a, b = s[0] * factor[0, k]
        pair = np.array([[a, r[0] * np.sqrt(a * b)], [r[0] * np.sqrt(a * b), b]])
        noise = np.zeros((4, 4))
        noise[:2, :2] = pair / n[0, k]
        noise[2, 2], noise[3, 3] = a / n[1, k], b / n[2, k]
        design = np.array([[1, 0], [0, 1], [1, 0], [0, 1.0]])
        seen = np.array([low[0, k], high[0, k], low[1, k], high[1, k]])
        covariance = np.linalg.inv(design.T @ np.linalg.inv(noise) @ design)
        assert m[:, 0, k] == pytest.approx(covariance @ design.T @ np.linalg.inv(noise) @ seen)
        assert v[:, 0, k] == pytest.approx(covariance[[0, 0, 1], [0, 1, 1]])


def test_levels_and_likelihood_are_those_of_the_whole_covariance() -> None:
    rng = np.random.default_rng(1)
    arms = 5
    m = rng.standard_normal((2, 1, arms))
    roots = rng.standard_normal((arms, 2, 2))
    blocks = roots @ roots.transpose(0, 2, 1) + np.eye(2)
    c = np.stack([blocks[:, 0, 0], blocks[:, 0, 1], blocks[:, 1, 1]])[:, None]
    _, inverse, level, log = _gls(m, c)
    whole = np.zeros((2 * arms, 2 * arms))
    for k in range(arms):
        whole[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = blocks[k]
    design, seen = np.tile(np.eye(2), (arms, 1)), m[:, 0].T.ravel()
    precision = design.T @ np.linalg.solve(whole, design)
    best = np.linalg.solve(precision, design.T @ np.linalg.solve(whole, seen))
    rest = seen - design @ best
    assert level[:, 0] == pytest.approx(best)
    assert inverse[:, 0] == pytest.approx(np.linalg.inv(precision)[[0, 0, 1], [0, 1, 1]])
    expected = np.linalg.slogdet(whole)[1] + np.linalg.slogdet(precision)[1] + rest @ np.linalg.solve(whole, rest)
    assert log[0] == pytest.approx(-expected / 2)


def test_an_arm_that_never_works_says_nothing_of_how_often_the_others_fail() -> None:
    sound = table(np.zeros(4), 3, 2)
    broken = [Outcome("arm4", draw, SCREEN, (), 1.0, failed=True) for draw in range(3)]
    alone, beside = believe(sound, arms_of(4), RULES), believe([*sound, *broken], arms_of(5), RULES)
    assert beside.rate[:, :4].mean() == pytest.approx(alone.rate.mean(), abs=0.005)
    assert not beside.alive[4] and beside.rate[:, 4].mean() > 0.3
