"""Which workers are hired and ended, and what becomes of trials whose workers die: a crew with workers of paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sweep import plan
from sweep.config import parse_study
from sweep.plan import Trial
from sweep.runs.crew import ClusterError, Crew
from sweep.runs.runner import RunnerError
from sweep.runs.schedule import Job


class Machines:
    """Nodes of one worker each, and an autoscaler that gives each worker that waits a node, up to `most`.

    Workers start where there is room; trials finish at once, oldest first, or in the given `order`.
    """

    def __init__(self, nodes: int, most: int) -> None:
        self.nodes, self.most = nodes, most
        self.hired = 0
        self.ended: list[int] = []
        self.waiting: list[int] = []  # workers without room, at each step
        self.together = 0  # most trials at a time
        self.time = 0.0
        self.said: list[str] = []
        self.dies: Callable[[Trial], bool] = lambda trial: False
        self.cannot_start: Callable[[], bool] = lambda: False
        self.order: Callable[[Trial], Any] = lambda trial: 0

    def clock(self) -> float:
        return self.time

    def work(self, crew: Crew, jobs: list[Job], places: int) -> Iterator[tuple[str, str]]:
        """Do the jobs; yields the id of each trial that ended, and how."""
        crew.begin(jobs, places)
        while crew.unfinished:
            while crew.assign():
                pass
            crew.grow(self.nodes)
            for _ in range(crew.missing()):
                self.hired += 1
                crew.hired(self.hired)
            for worker in crew.surplus():
                crew.ended(worker)
                self.ended.append(worker)
            if not crew.unfinished:
                break
            self.time += 1.0
            yield from self.step(crew)
        for job in crew.tried():
            yield job.trial.id, "failed"
        crew.refuse_untried()

    def step(self, crew: Crew) -> list[tuple[str, str]]:
        """A worker starts, or a trial ends."""
        self.together = max(self.together, len(crew.running))
        room = self.nodes - crew.up
        up, waiting = crew.starting[: max(0, room)], crew.starting[max(0, room) :]
        self.waiting.append(len(waiting))
        self.nodes = min(self.most, self.nodes + len(waiting))
        if up:
            if self.cannot_start():
                self.said.append(crew.did_not_start(up[0], "RuntimeError: no GPU") or "")
            else:
                crew.started(up[0])
            return []
        worker = min(crew.running, key=lambda worker: self.order(crew.running[worker].job.trial))
        trial = crew.running[worker].job.trial
        if not self.dies(trial):
            crew.finished(worker)
            return [(trial.id, "ok")]
        failed = not crew.try_again(worker)
        if line := crew.lost(worker):
            self.said.append(line)
        return [(trial.id, "failed")] if failed else []


@pytest.fixture
def trials(document: dict[str, Any]) -> list[Trial]:
    document["calibration"]["sets"] = 10
    return plan.expand(parse_study(document))


@pytest.fixture
def two_models(document: dict[str, Any], other_model: Any) -> list[Trial]:
    document["models"].append(str(other_model))
    document["calibration"]["sets"] = 3
    return plan.expand(parse_study(document))


def jobs(trials: list[Trial]) -> list[Job]:
    return [Job(trial) for trial in trials]


def ids(trials: list[Trial]) -> set[str]:
    return {trial.id for trial in trials}


def cluster_crew(machines: Machines) -> Crew:
    return Crew(grows=True, asks_ahead=True, now=machines.clock)


def test_cluster_grows_while_trials_wait(trials: list[Trial]) -> None:
    machines = Machines(nodes=2, most=8)
    crew = cluster_crew(machines)
    ended = dict(machines.work(crew, jobs(trials), 2))
    assert set(ended) == ids(trials)
    assert machines.together == machines.nodes == crew.places == 8
    assert max(machines.waiting) == 8  # as many again as there are
    assert machines.waiting[0] == 2


def test_no_more_workers_wait_than_trials(trials: list[Trial]) -> None:
    machines = Machines(nodes=2, most=2)
    crew = cluster_crew(machines)
    assert len(list(machines.work(crew, jobs(trials[:5]), 2))) == 5
    assert machines.waiting == sorted(machines.waiting, reverse=True)
    assert machines.waiting[0] == 2
    assert machines.waiting[-1] == 0
    assert machines.ended  # those that nobody needs any more
    assert not crew.starting


def test_latest_of_the_waiting_workers_is_ended_first(trials: list[Trial]) -> None:
    crew = Crew()
    crew.begin(jobs(trials[:2]), 2)
    for worker in ("first", "second", "third", "fourth"):
        crew.hired(worker)
    assert crew.surplus() == ["fourth", "third"]


def test_given_number_of_workers_is_kept(trials: list[Trial]) -> None:
    machines = Machines(nodes=8, most=8)
    assert len(list(machines.work(Crew(now=machines.clock), jobs(trials), 3))) == len(trials)
    assert machines.hired == machines.together == 3


def test_workers_hired_before_the_trials_are_used(trials: list[Trial]) -> None:
    crew = Crew()
    crew.hired("early")
    crew.begin(jobs(trials[:3]), 8)
    assert (crew.places, crew.missing()) == (3, 2)
    crew.started("early")
    assigned = crew.assign()
    assert assigned is not None
    assert assigned == ("early", Job(trials[0]))
    assert crew.assign() is None  # nobody is free


def test_model_that_kills_its_workers_does_not_stop_the_others(two_models: list[Trial]) -> None:
    bad = [trial for trial in two_models if trial.model.name == "tiny"]
    machines = Machines(nodes=1, most=1)
    machines.dies = lambda trial: trial.model.name == "tiny"
    work, ended = machines.work(Crew(now=machines.clock), jobs(two_models), 1), []
    with pytest.raises(ClusterError, match=f"they held tiny, so {len(bad) - 3} more trials were not started") as error:
        while True:
            ended.append(next(work))
    assert isinstance(error.value, RunnerError)
    assert [how for _, how in ended] == ["ok"] * (len(two_models) - len(bad)) + ["failed"] * 3
    assert machines.hired == 1 + 3
    assert any(f"the {len(bad)} that wait are set aside" in line for line in machines.said)


def test_model_is_resumed_when_a_trial_of_it_finishes_elsewhere(trials: list[Trial]) -> None:
    first, shaky = trials[0].id, ids(trials[1:4])
    machines = Machines(nodes=2, most=2)
    machines.order = lambda trial: trial.id == first and bool(shaky)  # the first trial takes longer

    def dies(trial: Trial) -> bool:
        gone = trial.id in shaky
        shaky.discard(trial.id)
        return gone

    machines.dies = dies
    ended = dict(machines.work(Crew(now=machines.clock), jobs(trials), 2))
    assert ended == dict.fromkeys(ids(trials), "ok")
    assert any("are set aside" in line for line in machines.said)


def test_poisoned_trials_fail_at_the_third_death_and_their_model_goes_on(trials: list[Trial]) -> None:
    poisoned = {trials[2].id, trials[9].id}
    machines = Machines(nodes=1, most=1)
    machines.dies = lambda trial: trial.id in poisoned
    ended = dict(machines.work(cluster_crew(machines), jobs(trials), 1))
    assert {number for number, how in ended.items() if how == "failed"} == poisoned
    assert set(ended) == ids(trials)
    assert machines.hired == 2 * 3  # the last death leaves nothing to do


def test_attempts_and_deaths_of_a_trial_are_counted(trials: list[Trial]) -> None:
    crew = Crew()
    crew.begin([Job(trials[0], attempts=4)], 1)
    for deaths in range(3):
        crew.hired(deaths)
        crew.started(deaths)
        assigned = crew.assign()
        assert assigned is not None
        assert assigned[1] == Job(trials[0], attempts=4 + deaths, deaths=deaths)
        assert crew.try_again(deaths) is (deaths < 2)
        crew.lost(deaths)
    assert not crew.unfinished


def test_node_that_takes_many_workers_with_it_counts_once(trials: list[Trial]) -> None:
    lost = ids(trials[:8])
    machines = Machines(nodes=8, most=8)

    def dies(trial: Trial) -> bool:
        gone = trial.id in lost
        lost.discard(trial.id)
        return gone

    machines.dies = dies
    machines.order = lambda trial: trial.id not in lost  # they die together, before anything is handed out again
    ended = dict(machines.work(Crew(now=machines.clock), jobs(trials), 8))
    assert set(ended.values()) == {"ok"}
    assert not any("are set aside" in line for line in machines.said)


def test_workers_that_cannot_start_stop_the_sweep_with_the_reason(trials: list[Trial]) -> None:
    machines = Machines(nodes=1, most=1)
    machines.cannot_start = lambda: True
    with pytest.raises(ClusterError, match="10 workers one after the other could not start: RuntimeError: no GPU"):
        list(machines.work(cluster_crew(machines), jobs(trials), 1))
    assert machines.hired >= 10


def test_nodes_where_no_worker_starts_do_not_stop_those_that_work(trials: list[Trial]) -> None:
    started: list[int] = []
    machines = Machines(nodes=2, most=8)

    def third() -> bool:
        started.append(1)
        return len(started) > 2

    machines.cannot_start = third
    crew = cluster_crew(machines)
    assert dict(machines.work(crew, jobs(trials), 2)) == dict.fromkeys(ids(trials), "ok")
    assert len(started) == 12
    assert crew.places == 2
    assert any("going on with 2" in line for line in machines.said)


def test_trial_that_is_there_already_frees_its_worker(trials: list[Trial]) -> None:
    crew = Crew()
    crew.begin(jobs(trials[:2]), 1)
    crew.hired("worker")
    crew.started("worker")
    crew.assign()
    crew.was_there("worker")
    assert crew.unfinished == 1
    assert crew.assign() == ("worker", Job(trials[1]))


def test_running_trials_are_named(trials: list[Trial]) -> None:
    crew = Crew()
    assert crew.busy_with() == "no trial, workers are starting"
    crew.begin(jobs(trials[:1]), 1)
    crew.hired("worker")
    crew.started("worker")
    crew.assign()
    assert crew.busy_with() == "tiny · dense"
