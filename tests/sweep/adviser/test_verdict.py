import dataclasses
import json
import re

import numpy as np
import pytest

from sweep.adviser.outcomes import FULL, Controls, Costs, Outcome, Rules, Trial
from sweep.adviser.posterior import believe
from sweep.adviser.verdict import Verdict, judge, luck_of_one
from tests.sweep.adviser.conftest import arms_of, losses_of, outcome, run

COSTS = Costs(0.125, 1.0)


def asked(truth: np.ndarray, budget: float = 24, **rules) -> Verdict:
    truth = np.asarray(truth, float)
    given = Rules(budget=budget, **rules)
    outcomes, _, _ = run(losses_of(truth), arms_of(len(truth)), given, COSTS)
    return judge(outcomes, arms_of(len(truth)), given, COSTS)


def test_a_clear_winner_is_named_alone() -> None:
    found = asked(np.array([0.0, 5, 6, 7, 8, 9, 9, 9]))
    assert (found.kind, found.arm, found.named, found.any_will_do) == ("winner", "arm0", ("arm0",), False)
    assert found.regret <= found.matters and found.standings[0].p_best > 0.9
    assert found.gain_random[0].low > 0


def test_sources_that_differ_by_less_than_matters_tie() -> None:
    found = asked(np.array([0.0, 0.1, 0.1, 0.0]), budget=40, matters=3.0)
    assert found.kind == "tie" and found.any_will_do and len(found.named) == 4
    some = asked(np.array([0.0, 0.1, 60.0, 60.0]), budget=40, matters=3.0)
    assert some.kind == "tie" and not some.any_will_do and set(some.named) == {"arm0", "arm1"}


def test_any_of_equal_sources_will_do_and_one_that_leads_is_named() -> None:
    found = asked(np.zeros(8))
    assert found.kind == "tie" and found.any_will_do and len(found.named) == 8 and found.arm == found.named[0]
    assert found.regret > found.matters
    said = re.search(
        r"one at random is expected to cost (\S+) SD of a draw more than the best \(with 80 % probability at most "
        r"(\S+)\), the worst (\S+)$",
        found.reason,
    )
    assert said and 0 < float(said[1]) <= 1 and float(said[1]) < float(said[3]) <= 2
    assert float(said[1]) < float(said[2])


def test_any_will_do_where_all_of_them_cost_next_to_nothing_beside_compression() -> None:
    truth = np.array([0.0, 4, 4, 5, 5, 4, 4, 5])
    outcomes, _, _ = run(losses_of(truth), arms_of(8), Rules(budget=24), COSTS)
    small, large = (
        judge(outcomes, arms_of(8), Rules(budget=24), COSTS, Controls(dense=(-cost,), data_free=(999.0,)))
        for cost in (20.0, 500.0)
    )
    assert small.kind == "winner" and not small.any_will_do
    assert large.kind == "tie" and large.any_will_do and large.arm == "arm0"
    said = re.search(r"cost (\S+) % of what compression costs more", large.reason)
    assert said and float(said[1]) == pytest.approx(100 * truth.mean() / 500, rel=0.4)
    capped = judge(outcomes, arms_of(8), Rules(budget=24), COSTS, Controls(dense=(-500.0,), data_free=(-480.0,)))
    assert not capped.any_will_do


def test_one_bad_source_among_equal_ones_is_not_any() -> None:
    assert not asked(np.array([0.0] * 7 + [7.0])).any_will_do


def test_the_luck_of_one_draw_counts_arms_of_large_spread_in_full() -> None:
    outcomes, _, _ = run(losses_of(np.zeros(4)), arms_of(4), Rules(budget=24), COSTS)
    belief = believe(outcomes, arms_of(4), Rules(budget=24))
    spread = np.broadcast_to(np.array([1.0, 1.0, 1.0, 7.0])[:, None], belief.spread.shape)
    assert luck_of_one(dataclasses.replace(belief, spread=spread)) == pytest.approx(np.sqrt((3 + 49) / 4))


def test_equal_sources_cannot_be_told_apart_by_less_than_matters() -> None:
    found = asked(np.zeros(8), matters=0.05)
    assert found.kind == "cannot tell" and found.arm == found.named[0] and len(found.named) > 1
    assert found.regret_upper >= found.regret > found.matters
    assert found.more.then < found.more.now == pytest.approx(found.regret) and found.more.trials > 0


def test_an_hour_buys_no_more_trials_than_are_left() -> None:
    outcomes, _, _ = run(losses_of(np.zeros(4)), arms_of(4), Rules(budget=24), COSTS)
    short, long = (
        judge(
            [dataclasses.replace(one, seconds=factor * one.seconds) for one in outcomes],
            arms_of(4),
            Rules(budget=24),
            Costs(0.125 * factor, factor),
        ).more
        for factor in (1.0, 600.0)
    )
    assert 6 < short.trials < 100 and short.seconds == short.trials
    assert (long.trials, long.seconds) == (6, 3600)


def test_the_control_decides_whether_data_can_matter() -> None:
    outcomes, _, _ = run(losses_of(np.zeros(4)), arms_of(4), Rules(budget=12), COSTS)
    found = judge(outcomes, arms_of(4), Rules(budget=12), COSTS, Controls(dense=(0.0,), data_free=(0.001,)))
    assert found.kind == "cannot matter" and found.any_will_do
    assert judge([], arms_of(4), Rules(budget=12, matters=1.0), COSTS, Controls((0.0,), (0.5,))).kind == "cannot matter"
    matters = judge(outcomes, arms_of(4), Rules(budget=12), COSTS, Controls(dense=(-9.0,), data_free=(9.0,)))
    assert matters.kind != "cannot matter"
    assert matters.gain_control[0].mean == pytest.approx(9 - matters.standings[0].values[0])


def test_failures_are_an_answer() -> None:
    failed = [Outcome(arm, 0, FULL, (), 1.0, failed=True) for arm in arms_of(3)]
    found = judge(failed, arms_of(3), Rules(budget=9), COSTS)
    assert (found.kind, found.arm) == ("failed", None) and "all 3 trials failed" in found.reason
    assert judge([], arms_of(3), Rules(budget=9), COSTS).kind == "failed"


def test_an_arm_that_always_fails_stands_last() -> None:
    losses = losses_of(np.array([0.0, 1, 2, 3]))
    outcomes, _, _ = run(lambda t: None if t.arm == "arm0" else losses(t), arms_of(4), Rules(budget=16), COSTS)
    found = judge(outcomes, arms_of(4), Rules(budget=16), COSTS)
    last = found.standings[-1]
    assert (last.arm, last.p_best, last.values) == ("arm0", 0.0, ()) and last.failures == 3
    assert "arm0" not in found.named


def test_without_noise_the_best_measured_draw_ships_and_with_it_doubt_grows() -> None:
    losses, rules = losses_of(np.array([0.0, 5, 6, 7])), Rules(budget=40)
    outcomes = [outcome(Trial(arm, draw, FULL), losses, COSTS) for arm in arms_of(4) for draw in range(5)]
    own = {o.draw: o.values[0] for o in outcomes if o.arm == "arm0" and o.fidelity == FULL}
    exact = judge(outcomes, arms_of(4), rules, COSTS)
    assert exact.ship.arm == "arm0" and exact.ship.draw == min(own, key=own.get)
    assert exact.ship.p_best == 1.0
    noisy = judge(outcomes, arms_of(4), rules, COSTS, noise=(0.8,))
    assert noisy.ship.p_best < 0.95


def test_targets_that_order_the_sources_in_opposite_ways_are_named() -> None:
    truth = np.array([[0.0, 12.0], [4.0, 4.0], [8.0, 5.0], [12.0, 0.0]])
    found = asked(truth, budget=40, targets=("texts", "tasks"), matters=1.0)
    assert found.arm == "arm1"
    (pair,) = found.disagreements
    assert (pair.first, pair.second, pair.best_first, pair.best_second) == ("texts", "tasks", "arm0", "arm3")
    assert pair.probability > 0.9 and pair.correlation < 0
    assert not asked(truth[:, [0, 0]], budget=40, targets=("a", "b"), matters=1.0).disagreements


def test_the_answer_is_plain_data() -> None:
    found = asked(np.array([0.0, 1, 2, 3]))
    assert json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False))["arm"] == found.arm


def test_what_a_race_has_left_is_the_answer_although_another_leads_by_a_little() -> None:
    drawn = ((9.0, 10.5, 9.9), (9.8, 10.2, 10.1), (19.0, 20.5, 20.0))
    full = [Outcome(f"arm{k}", draw, FULL, (value,), 1.0) for k in range(3) for draw, value in enumerate(drawn[k])]
    given = Rules(budget=24, guarantee=True)
    free = judge(full, arms_of(3), given, COSTS)
    assert (free.kind, free.arm) == ("cannot tell", "arm0")
    found = judge(full, arms_of(3), given, COSTS, survivor="arm1")
    assert (found.kind, found.arm, found.named) == ("winner", "arm1", ("arm1",))
    assert found.ship is not None and found.ship.arm == "arm1"
    assert found.regret > free.regret  # that of the arm that is named
