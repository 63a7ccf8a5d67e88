"""Which workers are hired and which are ended, on machines of paper."""

from __future__ import annotations

import pytest

from sweep.models import ModelRef
from sweep.plan import Trial
from sweep.runs.crew import ClusterError, Crew
from sweep.runs.hiring import Hiring
from sweep.runs.schedule import ONE_KIND, Job, Kind
from tests.sweep.runs.machines import Machines, ids, jobs


def test_cluster_grows_while_trials_wait(many_trials: list[Trial]) -> None:
    machines = Machines(nodes=2, most=8)
    hiring = machines.hiring(on_cluster=True)
    ended = dict(machines.work(hiring, jobs(many_trials), 2))
    assert set(ended) == ids(many_trials)
    assert machines.together == machines.nodes == hiring.places == 8
    assert max(machines.waiting) == 8  # as many again as there are
    assert machines.waiting[0] == 2


def test_no_more_workers_wait_than_trials(many_trials: list[Trial]) -> None:
    machines = Machines(nodes=2, most=2)
    hiring = machines.hiring(on_cluster=True)
    assert len(list(machines.work(hiring, jobs(many_trials[:5]), 2))) == 5
    assert machines.waiting == sorted(machines.waiting, reverse=True)
    assert machines.waiting[0] == 2
    assert machines.waiting[-1] == 0
    assert machines.ended  # those that nobody needs any more
    assert not hiring.starting


def test_latest_of_the_waiting_workers_is_ended_first(many_trials: list[Trial]) -> None:
    hiring = Hiring(Crew())
    hiring.crew.begin(jobs(many_trials[:2]))
    hiring.begin(2)
    for worker in ("first", "second", "third", "fourth"):
        hiring.hired(worker)
    assert hiring.surplus() == ["fourth", "third"]


def test_given_number_of_workers_is_kept(many_trials: list[Trial]) -> None:
    machines = Machines(nodes=8, most=8)
    assert len(list(machines.work(machines.hiring(), jobs(many_trials), 3))) == len(many_trials)
    assert machines.hired == machines.together == 3


def test_workers_hired_before_the_trials_are_used(many_trials: list[Trial]) -> None:
    crew = Crew()
    hiring = Hiring(crew)
    hiring.hired("early")
    crew.begin(jobs(many_trials[:3]))
    hiring.begin(8)
    assert (hiring.places, hiring.wanted(), hiring.size) == (3, {ONE_KIND: 3}, 1)
    hiring.started("early")
    assert (hiring.size, crew.size) == (1, 1)
    assigned = crew.assign()
    assert assigned is not None
    assert assigned == ("early", Job(many_trials[0]))
    assert crew.assign() is None  # nobody is free


def test_workers_that_cannot_start_stop_the_sweep_with_the_reason(many_trials: list[Trial]) -> None:
    machines = Machines(nodes=1, most=1)
    machines.cannot_start = lambda: True
    with pytest.raises(ClusterError, match="10 workers one after the other could not start: RuntimeError: no GPU"):
        list(machines.work(machines.hiring(on_cluster=True), jobs(many_trials), 1))
    assert machines.hired >= 10


def test_nodes_where_no_worker_starts_do_not_stop_those_that_work(many_trials: list[Trial]) -> None:
    started: list[int] = []
    machines = Machines(nodes=2, most=8)

    def third() -> bool:
        started.append(1)
        return len(started) > 2

    machines.cannot_start = third
    hiring = machines.hiring(on_cluster=True)
    assert dict(machines.work(hiring, jobs(many_trials), 2)) == dict.fromkeys(ids(many_trials), "ok")
    assert len(started) == 12
    assert hiring.places == 2
    assert any("going on with 2" in line for line in machines.said)


def test_all_workers_are_handed_back_when_the_crew_is_disbanded(many_trials: list[Trial]) -> None:
    crew = Crew()
    hiring = Hiring(crew)
    for worker in ("running", "free", "starting"):
        hiring.hired(worker)
    crew.begin(jobs(many_trials[:1]))
    for worker in ("free", "running"):
        hiring.started(worker)
    crew.assign()
    assert sorted(hiring.disband()) == ["free", "running", "starting"]
    assert (hiring.size, crew.size) == (0, 0)


def test_workers_without_a_trial_are_ended_on_a_cluster_and_kept_here(many_trials: list[Trial]) -> None:
    for on_cluster in (True, False):
        hiring = Hiring(Crew(), grows=on_cluster)
        hiring.crew.begin(jobs(many_trials[:2]))
        hiring.begin(2)
        for worker in ("first", "second"):
            hiring.hired(worker)
            hiring.started(worker)
        while hiring.crew.assign():
            pass
        assert hiring.surplus() == []
        hiring.crew.finished("first")
        assert hiring.surplus() == (["first"] if on_cluster else [])
        if on_cluster:
            hiring.ended("first")
            assert (hiring.size, hiring.wanted(), hiring.surplus()) == (1, {ONE_KIND: 1}, [])


def test_workers_leave_the_cpu_on_which_what_a_lost_node_held_is_built_again(many_trials: list[Trial]) -> None:
    hiring = Hiring(Crew(), grows=True, shrinks=True)
    crew = hiring.crew
    crew.begin(jobs(many_trials[:9]))
    hiring.begin(3)
    for worker in ("first", "second", "third", "fourth", "fifth"):
        hiring.hired(worker)
        if worker != "fifth":
            hiring.started(worker)
            crew.assign()
    hiring.fit(5)  # a node has joined, and the lost one still seems to be there
    assert hiring.surplus() == []
    hiring.fit(3)
    assert hiring.surplus() == ["fifth", "fourth"]
    job = crew.running["fourth"].job
    for worker in hiring.surplus():
        hiring.ended(worker)
    assert (hiring.size, len(crew.queue), crew.unfinished) == (3, 6, 9)
    again = [crew.queue.take(None) for _ in range(6)]
    assert [(one.attempts, one.deaths) for one in again if one.trial == job.trial] == [(2, 0)]
    hiring.fit(8)
    assert hiring.places == 3  # that many trials are left
    hiring.fit(0)
    assert hiring.places == 1


def test_given_number_of_workers_shrinks_with_the_nodes_and_comes_back(many_trials: list[Trial]) -> None:
    hiring = Hiring(Crew(), shrinks=True)
    hiring.crew.begin(jobs(many_trials[:9]))
    hiring.begin(3)
    places = []
    for room in (1, 2, 8):
        hiring.fit(room)
        places.append(hiring.places)
    assert places == [1, 2, 3]


def test_worker_that_records_is_not_ended(many_trials: list[Trial]) -> None:
    crew = Crew()
    hiring = Hiring(crew, grows=True)
    crew.begin([Job(many_trials[0])])
    hiring.begin(1)
    for worker in ("idle", "recording"):
        hiring.hired(worker)
        hiring.started(worker)
    assert crew.assign() == ("recording", Job(many_trials[0]))
    crew.computed("recording")
    assert hiring.surplus() == ["idle"]


def test_workers_are_kept_while_trials_await_their_sets(many_trials: list[Trial]) -> None:
    crew = Crew()
    hiring = Hiring(crew, grows=True)
    last = many_trials[-1]
    assert last.calibration_id is not None
    crew.begin([Job(last)], {last.calibration_id})
    hiring.begin(1)
    for worker in ("one", "two"):
        hiring.hired(worker)
        hiring.started(worker)
    assert hiring.surplus() == []


def mixed(trials: list[Trial]) -> tuple[Hiring, dict[ModelRef, Kind]]:
    """A crew that needs a whole GPU for one model and a quarter for all others."""
    large = trials[0].model
    kinds = {trial.model: 1.0 if trial.model == large else 0.25 for trial in trials}
    assert set(kinds.values()) == {0.25, 1.0}
    hiring = Hiring(Crew())
    assert hiring.choose(kinds)
    return hiring, kinds


def test_models_with_different_needs_run_side_by_side(two_models: list[Trial]) -> None:
    hiring, kinds = mixed(two_models)
    hiring.crew.begin(jobs(two_models))
    hiring.begin(8)  # two GPUs, in quarters
    assert hiring.wanted() == {0.25: 4, 1.0: 1}
    assert (hiring.workers, hiring.gpus) == (5, 2.0)
    for kind, count in hiring.wanted().items():
        for number in range(count):
            hiring.hired((kind, number), kind)
            hiring.started((kind, number))
    handed = {}
    while assigned := hiring.crew.assign():
        handed[assigned[0]] = kinds[assigned[1].trial.model]
    assert handed == {worker: worker[0] for worker in handed}
    assert len(handed) == 5


def test_workers_of_a_kind_that_is_done_make_room_for_another(two_models: list[Trial]) -> None:
    hiring, kinds = mixed(two_models)
    large = [trial for trial in two_models if kinds[trial.model] == 1.0]
    small = [trial for trial in two_models if kinds[trial.model] == 0.25]
    hiring.crew.begin(jobs([*large[:1], *small]))
    hiring.begin(4)  # one GPU
    hiring.hired("large", 1.0)
    hiring.started("large")
    assert hiring.crew.assign() == ("large", Job(large[0]))
    assert hiring.wanted() == {0.25: 0, 1.0: 1}  # it keeps what it holds
    hiring.crew.finished("large")
    assert hiring.wanted() == {0.25: 4, 1.0: 0}
    assert hiring.surplus() == ["large"]


def test_a_worker_waits_rather_than_take_a_trial_of_another_kind(two_models: list[Trial]) -> None:
    hiring, kinds = mixed(two_models)
    hiring.crew.begin(jobs([trial for trial in two_models if kinds[trial.model] == 1.0]))
    hiring.begin(4)
    hiring.hired("small", 0.25)
    hiring.started("small")
    assert hiring.crew.assign() is None
    assert hiring.surplus() == ["small"]


def test_all_trials_of_a_mixed_study_end_on_one_gpu(two_models: list[Trial]) -> None:
    hiring, _ = mixed(two_models)
    crew, ended, number = hiring.crew, [], 0
    crew.begin(jobs(two_models))
    hiring.begin(4)
    for _ in range(200):
        for worker in hiring.surplus():
            hiring.ended(worker)
        for kind, count in hiring.wanted().items():
            while hiring.count(kind) < count:
                number += 1
                hiring.hired(number, kind)
                hiring.started(number)
        assert sum(crew.kinds[worker] for worker in (*crew.free, *crew.running)) <= 1.0
        while crew.assign():
            pass
        for worker in [*crew.running][:1]:
            ended.append(crew.running[worker].job.trial.id)
            crew.finished(worker)
        if not crew.unfinished:
            break
    assert sorted(ended) == sorted(ids(two_models))
    assert number == 5  # one for the large model, four for the small one
