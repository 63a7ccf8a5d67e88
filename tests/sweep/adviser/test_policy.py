import numpy as np
import pytest

from sweep.adviser.outcomes import FULL, SCREEN, Controls, Costs, Outcome, Round, Rules, Stop, Trial
from sweep.adviser.policy import FIRST, SCREENS, least_budget, measured, next_round, spent
from tests.sweep.adviser.conftest import arms_of, losses_of, outcome, run

TRUTH = np.array([0.0, 0.4, 0.8, 1.2, 3.0, 3.0, 3.0, 3.0])


def test_screens_come_first_then_full_draws_of_the_best_few(costs: Costs) -> None:
    _, rounds, _ = run(losses_of(TRUTH), arms_of(8), Rules(budget=24), costs)
    assert {trial.fidelity for trial in rounds[0].trials} == {SCREEN}
    assert len(rounds[0].trials) == SCREENS * 8
    assert all(trial.fidelity == FULL for later in rounds[1:] for trial in later.trials)
    assert len(rounds[1].trials) == FIRST * 5  # half of the 21 trials that are left
    first = {trial.arm for trial in rounds[1].trials}
    assert len(first) == 5 and {"arm0", "arm1"} <= first


def test_no_trial_is_asked_twice_and_the_budget_holds(costs: Costs) -> None:
    for budget in (4, 9, 24, 60):
        outcomes, _, stop = run(losses_of(TRUTH), arms_of(8), Rules(budget=budget), costs)
        assert len({(o.arm, o.draw, o.fidelity) for o in outcomes}) == len(outcomes)
        assert spent(outcomes, costs) <= budget
        assert stop.kind in ("budget", "settled")


def test_full_draws_begin_with_those_that_were_screened(costs: Costs) -> None:
    outcomes, _, _ = run(losses_of(TRUTH), arms_of(8), Rules(budget=24), costs)
    for arm in arms_of(8):
        draws = [o.draw for o in outcomes if o.arm == arm and o.fidelity == FULL]
        assert draws == list(range(len(draws)))


def test_a_run_that_was_cut_off_goes_on_where_it_stood(costs: Costs) -> None:
    arms, rules, losses = arms_of(8), Rules(budget=24), losses_of(TRUTH)
    outcomes, rounds, _ = run(losses, arms, rules, costs)
    shuffled = [outcomes[i] for i in np.random.default_rng(0).permutation(len(rounds[0].trials))]
    again = next_round(shuffled, arms, rules, costs)
    assert again == rounds[1]
    cut = next_round(outcomes[:10], arms, rules, costs)
    assert isinstance(cut, Round) and set(cut.trials) == set(rounds[0].trials[10:])


def test_dear_screens_are_not_bought() -> None:
    step = next_round([], arms_of(4), Rules(budget=20), Costs(screen=0.9, full=1.0))
    assert isinstance(step, Round)
    assert [trial.fidelity for trial in step.trials] == [FULL] * 8


def test_guessed_costs_are_measured_before_screens_are_bought() -> None:
    rules, guess, arms = Rules(budget=24), Costs(0.1, 1.0, guessed=True), arms_of(8)
    step = next_round([], arms, rules, guess)
    assert isinstance(step, Round) and step.trials == (
        Trial("arm0", 0, SCREEN),
        Trial("arm0", 1, SCREEN),
        Trial("arm0", 0, FULL),
    )

    def after(seconds: float) -> Round:
        found = [Outcome("arm0", 0, SCREEN, (4.0,), seconds), Outcome("arm0", 0, FULL, (1.0,), 1.0)]
        then = next_round(found, arms, rules, guess)
        assert isinstance(then, Round)
        return then

    assert {t.fidelity for t in after(0.2).trials} == {SCREEN} and len(after(0.2).trials) == SCREENS * 8 - 1
    assert "at 20 % of a full trial's cost" in after(0.2).reason
    dear = after(0.8)
    assert sorted((t.arm, t.draw) for t in dear.trials) == [(a, d) for a in arms for d in (0, 1)][1:]
    assert "no screens, since one costs 80 % of a full trial" in dear.reason
    foreseen = next_round([], arms, rules, Costs(0.9, 1.0, guessed=True))
    assert isinstance(foreseen, Round) and {t.fidelity for t in foreseen.trials} == {FULL}
    assert "no screens, since one would cost 90 % of a full trial" in foreseen.reason


def test_an_arm_that_was_timed_takes_part_as_any_other(costs: Costs) -> None:
    guess = Costs(costs.screen, costs.full, guessed=True)
    outcomes, rounds, stop = run(losses_of(TRUTH), arms_of(8), Rules(budget=24), guess)
    assert len({(o.arm, o.draw, o.fidelity) for o in outcomes}) == len(outcomes)
    assert [len(step.trials) for step in rounds[:2]] == [3, SCREENS * 8 - 2] and stop.kind in ("budget", "settled")
    assert {t.fidelity for t in rounds[2].trials} == {FULL} and len({t.arm for t in rounds[2].trials}) >= 4
    failing = run(lambda t: None if t.arm == "arm0" else losses_of(TRUTH)(t), arms_of(8), Rules(budget=24), guess)
    assert failing[2].kind in ("budget", "settled") and len({o.arm for o in failing[0]}) == 8


def test_the_first_outcomes_correct_the_costs() -> None:
    found = [Outcome("arm0", 0, FULL, (1.0,), 7.0), Outcome("arm1", 0, FULL, (), 1.0, failed=True)]
    assert measured(found, Costs(0.5, 2.0, spent=3.0)) == Costs(0.5, 7.0, spent=3.0)
    assert spent(found, Costs(0.5, 2.0, spent=3.0)) == 11.0


def test_clear_sources_settle_it_early(costs: Costs) -> None:
    outcomes, _, stop = run(losses_of(10 * TRUTH), arms_of(8), Rules(budget=96), costs)
    assert stop.kind == "settled"
    assert spent(outcomes, costs) < 30


def test_arms_run_out_of_draws(costs: Costs) -> None:
    _, _, stop = run(losses_of(np.zeros(3)), arms_of(3), Rules(budget=500, draws=4, matters=1e-6), costs)
    assert stop.kind == "draws" and "4 draws" in stop.reason


def test_an_arm_that_always_fails_costs_its_screens_alone(costs: Costs) -> None:
    losses = losses_of(TRUTH)
    outcomes, _, _ = run(lambda t: None if t.arm == "arm0" else losses(t), arms_of(8), Rules(budget=24), costs)
    assert {o.fidelity for o in outcomes if o.arm == "arm0"} == {SCREEN}


def test_when_everything_fails_it_says_so(costs: Costs) -> None:
    outcomes, rounds, stop = run(lambda trial: None, arms_of(4), Rules(budget=24), costs)
    assert stop.kind == "failed" and f"all {len(outcomes)} trials failed" in stop.reason and len(rounds) == 1


def test_data_cannot_matter_where_nothing_is_lost_without_them(costs: Costs) -> None:
    rules = Rules(budget=24, matters=0.5)
    stop = next_round([], arms_of(4), rules, costs, Controls(dense=(1.0,), data_free=(1.4,)))
    assert isinstance(stop, Stop) and stop.kind == "cannot matter"
    assert isinstance(next_round([], arms_of(4), rules, costs, Controls((1.0,), (1.6,))), Round)
    assert isinstance(next_round([], arms_of(4), rules, costs, Controls((1.0,), None)), Round)


def test_a_budget_that_buys_nothing_is_said(costs: Costs) -> None:
    _, _, stop = run(losses_of(TRUTH), arms_of(8), Rules(budget=1.5), costs)
    assert stop.kind == "budget"
    assert least_budget(arms_of(8), costs) == 8 * 0.125 + 3
    assert least_budget(arms_of(8), Costs(0.9, 1.0, spent=2.0)) == 10.0


def test_a_single_arm_is_no_choice(costs: Costs) -> None:
    with pytest.raises(ValueError, match="1 arm: a comparison needs two"):
        next_round([], ["a"], Rules(budget=1), costs)


def test_the_race_runs_on_full_draws_alone(costs: Costs) -> None:
    rules = Rules(budget=200, guarantee=True, lead=2.0)
    outcomes, rounds, stop = run(losses_of(3 * TRUTH), arms_of(8), rules, costs)
    assert stop.kind == "guaranteed" and "arm0 is left" in stop.reason
    assert {o.fidelity for o in outcomes} == {FULL}
    assert len(rounds[0].trials) == 24


def test_a_race_that_cannot_be_paid_stops(costs: Costs) -> None:
    stop = next_round([], arms_of(8), Rules(budget=20, guarantee=True), costs)
    assert isinstance(stop, Stop) and stop.kind == "budget" and "24 trials" in stop.reason


def test_further_rounds_take_untried_draws() -> None:
    outcomes = [outcome(Trial(arm, d, FULL), losses_of(TRUTH), Costs(1, 1)) for arm in arms_of(8) for d in (0, 2)]
    step = next_round(outcomes, arms_of(8), Rules(budget=60), Costs(1, 1))
    assert isinstance(step, Round)
    assert {trial.draw for trial in step.trials} <= {1, 3, 4, 5}


def test_a_round_says_how_many_draws_it_takes_not_how_many_it_could_pay() -> None:
    outcomes = [outcome(Trial(arm, d, FULL), losses_of(TRUTH), Costs(1, 1)) for arm in arms_of(2) for d in (0, 1)]
    step = next_round(outcomes, arms_of(2), Rules(budget=60, draws=4, matters=1e-6), Costs(1, 1))
    assert isinstance(step, Round) and len(step.trials) == 4
    assert step.reason == "2 more full draws of each of 2 arms"
