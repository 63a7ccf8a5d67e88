"""Which workers are hired and which are ended, on machines of paper."""

from __future__ import annotations

import pytest

from sweep.plan import Trial
from sweep.runs.crew import ClusterError, Crew
from sweep.runs.hiring import Hiring
from sweep.runs.schedule import Job
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
    assert (hiring.places, hiring.wanted(), hiring.size) == (3, 3, 1)
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
            assert (hiring.size, hiring.wanted(), hiring.surplus()) == (1, 1, [])


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
