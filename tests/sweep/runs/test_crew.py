"""What becomes of trials whose workers die, on machines of paper."""

from __future__ import annotations

import pytest

from sweep.plan import Trial
from sweep.runs.crew import ClusterError, Crew
from sweep.runs.runner import RunnerError
from sweep.runs.schedule import Job, held_by
from tests.sweep.runs.machines import Machines, ids, jobs


def test_model_that_kills_its_workers_does_not_stop_the_others(two_models: list[Trial]) -> None:
    bad = [trial for trial in two_models if trial.model.name == "tiny"]
    machines = Machines(nodes=1, most=1)
    machines.dies = lambda trial: trial.model.name == "tiny"
    work, ended = machines.work(machines.hiring(), jobs(two_models), 1), []
    with pytest.raises(ClusterError, match=f"they held tiny, so {len(bad) - 3} more trials were not started") as error:
        while True:
            ended.append(next(work))
    assert isinstance(error.value, RunnerError)
    assert [how for _, how in ended] == ["ok"] * (len(two_models) - len(bad)) + ["failed"] * 3
    assert machines.hired == 1 + 3
    assert any(f"the {len(bad)} that wait are set aside" in line for line in machines.said)


def test_model_is_resumed_when_a_trial_of_it_finishes_elsewhere(many_trials: list[Trial]) -> None:
    first, shaky = many_trials[0].id, ids(many_trials[1:4])
    machines = Machines(nodes=2, most=2)
    machines.order = lambda trial: trial.id == first and bool(shaky)  # the first trial takes longer

    def dies(trial: Trial) -> bool:
        gone = trial.id in shaky
        shaky.discard(trial.id)
        return gone

    machines.dies = dies
    ended = dict(machines.work(machines.hiring(), jobs(many_trials), 2))
    assert ended == dict.fromkeys(ids(many_trials), "ok")
    assert any("are set aside" in line for line in machines.said)


def test_poisoned_trials_fail_at_the_third_death_and_their_model_goes_on(many_trials: list[Trial]) -> None:
    poisoned = {many_trials[2].id, many_trials[9].id}
    machines = Machines(nodes=1, most=1)
    machines.dies = lambda trial: trial.id in poisoned
    ended = dict(machines.work(machines.hiring(on_cluster=True), jobs(many_trials), 1))
    assert {number for number, how in ended.items() if how == "failed"} == poisoned
    assert set(ended) == ids(many_trials)
    assert machines.hired == 2 * 3  # the last death leaves nothing to do


def test_attempts_and_deaths_of_a_trial_are_counted(many_trials: list[Trial]) -> None:
    crew = Crew()
    crew.begin([Job(many_trials[0], attempts=4)])
    for deaths in range(3):
        crew.joined(deaths)
        assigned = crew.assign()
        assert assigned is not None
        assert assigned[1] == Job(many_trials[0], attempts=4 + deaths, deaths=deaths)
        assert crew.try_again(assigned[1]) is (deaths < 2)
        crew.lost(deaths)
    assert not crew.unfinished


def test_node_that_takes_many_workers_with_it_counts_once(many_trials: list[Trial]) -> None:
    lost = ids(many_trials[:8])
    machines = Machines(nodes=8, most=8)

    def dies(trial: Trial) -> bool:
        gone = trial.id in lost
        lost.discard(trial.id)
        return gone

    machines.dies = dies
    machines.order = lambda trial: trial.id not in lost  # they die together, before anything is handed out again
    ended = dict(machines.work(machines.hiring(), jobs(many_trials), 8))
    assert set(ended.values()) == {"ok"}
    assert not any("are set aside" in line for line in machines.said)


def test_trial_that_is_there_already_frees_its_worker(many_trials: list[Trial]) -> None:
    crew = Crew()
    crew.begin(jobs(many_trials[:2]))
    crew.joined("worker")
    crew.assign()
    crew.was_there("worker")
    assert crew.unfinished == 1
    assert crew.assign() == ("worker", Job(many_trials[1]))


def test_running_trials_are_named(many_trials: list[Trial]) -> None:
    crew = Crew()
    assert crew.busy_with() == "no trial, workers are starting"
    crew.begin(jobs(many_trials[:1]))
    crew.joined("worker")
    crew.assign()
    assert crew.busy_with() == "tiny · dense"


def test_worker_that_loads_a_model_ahead_is_given_its_trials_first(two_models: list[Trial]) -> None:
    crew = Crew()
    last = two_models[-1]
    crew.will_hold("early", held_by(last))
    crew.begin([Job(trial) for trial in two_models])
    crew.joined("late")
    assigned = crew.assign()
    assert assigned is not None
    assert assigned[1].trial.model != last.model  # that one is taken care of
    crew.joined("early")
    assigned = crew.assign()
    assert assigned is not None
    assert assigned[1].trial.model == last.model


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_last_trials_are_left_to_workers_that_hold_their_model_unless_these_are_late(two_models: list[Trial]) -> None:
    clock = Clock()
    crew = Crew(clock)
    first, last = two_models[0].model, two_models[-1].model
    few = [trial for trial in two_models if trial.model == first][:3]
    more = [trial for trial in two_models if trial.model == last][:5]
    crew.begin(jobs(few + more))
    for worker, trial in (("few", few[0]), ("more", more[0])):
        crew.will_hold(worker, held_by(trial))
        crew.joined(worker)
    for _ in range(3):
        assert {(crew.assign() or ("", None))[0] for _ in range(2)} == {"few", "more"}
        clock.seconds += 0.5
        for worker in ("few", "more"):
            crew.record_over(crew.computed(worker), lost=False)
    assert {crew.queue.count(1.0), len(crew.running)} == {2, 0}
    assert crew.assign() == ("more", Job(more[3]))  # it holds the model, though the other was free before
    assert crew.queue.ahead(held_by(few[0])) is None
    assert crew.assign() is None
    clock.seconds += 1.4
    assert crew.assign() is None
    clock.seconds += 0.2
    assert crew.queue.ahead(held_by(few[0])) == Job(more[4])
    assert crew.assign() == ("few", Job(more[4]))


@pytest.mark.parametrize(("later", "loads"), [(0.0, True), (3.5, True), (4.5, False)])
def test_whether_another_worker_loads_a_model_depends_on_when_its_holders_will_be_free(
    later: float, loads: bool, many_trials: list[Trial]
) -> None:
    clock = Clock()
    crew = Crew(clock)
    crew.begin(jobs([trial for trial in many_trials if held_by(trial) == held_by(many_trials[0])][:7]))
    for worker in ("one", "two"):
        crew.joined(worker)
    for seconds in (16.0, 10.0):  # with loading, and without
        assert {(crew.assign() or ("", None))[0] for _ in range(2)} == {"one", "two"}
        clock.seconds += seconds
        for worker in ("one", "two"):
            crew.record_over(crew.computed(worker), lost=False)
    assert {(crew.assign() or ("", None))[0] for _ in range(2)} == {"one", "two"}
    clock.seconds += later
    crew.joined("three")
    assert (crew.assign() is not None) is loads


def test_what_trials_took_says_nothing_of_a_later_run_in_which_something_else_is_expected(
    many_trials: list[Trial],
) -> None:
    clock = Clock()
    crew = Crew(clock)
    trials = [trial for trial in many_trials if held_by(trial) == held_by(many_trials[0])]
    crew.begin([Job(trial, seconds=100.0) for trial in trials[:2]])
    crew.joined("holder")
    for _ in range(2):
        assert crew.assign() is not None
        clock.seconds += 10.0
        crew.record_over(crew.computed("holder"), lost=False)
    crew.begin([Job(trial, seconds=10.0) for trial in trials[2:4]])
    crew.joined("other")
    assert {(crew.assign() or ("", None))[0] for _ in range(2)} == {"holder", "other"}


def test_worker_is_free_while_its_trial_is_recorded(many_trials: list[Trial]) -> None:
    crew = Crew()
    crew.begin(jobs(many_trials[:2]))
    crew.joined("worker")
    assert crew.assign() == ("worker", Job(many_trials[0]))
    job = crew.computed("worker")
    assert crew.assign() == ("worker", Job(many_trials[1]))
    assert crew.unfinished == 2
    crew.record_over(job, lost=False)
    crew.finished("worker")
    assert not crew.unfinished


def test_trials_of_a_worker_that_dies_are_both_tried_again(many_trials: list[Trial]) -> None:
    crew = Crew()
    crew.begin(jobs(many_trials[:2]))
    crew.joined("worker")
    crew.assign()
    recorded = crew.computed("worker")
    _, computed = crew.assign() or ("", recorded)
    for job in (recorded, computed):  # as both calls tell
        crew.record_over(job, lost=True)
        assert crew.try_again(job)
    crew.lost("worker")
    assert crew.size == 0
    assert len(crew.queue) == crew.unfinished == 2


def test_free_worker_that_dies_while_it_records_is_given_nothing_more(many_trials: list[Trial]) -> None:
    crew = Crew()
    crew.begin(jobs(many_trials[:1]))
    crew.joined("worker")
    crew.assign()
    job = crew.computed("worker")
    crew.record_over(job, lost=True)
    assert crew.try_again(job)
    assert crew.assign() is None
    assert crew.size == 0


def test_trials_whose_set_is_missing_are_unfinished_and_not_handed_out(many_trials: list[Trial]) -> None:
    crew = Crew()
    missing = {trial.calibration_id for trial in many_trials if trial.calibration_id}
    crew.begin(jobs(many_trials), missing)
    crew.joined("worker")
    handed = []
    while assigned := crew.assign():
        handed.append(assigned[1].trial)
        crew.finished("worker")
    assert handed == [trial for trial in many_trials if trial.calibration_id is None]
    assert crew.unfinished == len(many_trials) - len(handed)
    first = sorted(missing)[0]
    crew.queue.add(crew.awaiting.take([first]))
    assert {crew.queue.take(None).trial.calibration_id for _ in range(len(crew.queue))} == {first}


def test_a_trial_whose_record_kills_its_worker_takes_no_other_trial_with_it(many_trials: list[Trial]) -> None:
    """The worst order: the same two trials are given out one after the other each time."""
    crew, failed, worker = Crew(), [], 0
    poison, other = many_trials[:2]
    crew.begin([Job(poison), Job(other)])
    crew.joined(worker)
    for _ in range(20):
        if not crew.unfinished:
            break
        assigned = crew.assign()
        recorded = [job for _, job in crew.recorded.values()]
        if assigned and not any(job.trial is poison for job in recorded):
            crew.computed(worker)
            if assigned[1].trial is other:
                crew.record_over(assigned[1], lost=False)
            continue
        for job in recorded:  # the worker dies, with what it runs meanwhile
            crew.record_over(job, lost=True)
            failed += [] if crew.try_again(job) else [job.trial.id]
        if assigned:
            failed += [] if crew.try_again(assigned[1]) else [assigned[1].trial.id]
            crew.lost(worker)
        worker += 1
        crew.joined(worker)
    assert failed == [poison.id]
    assert not crew.unfinished
