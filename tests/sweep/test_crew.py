"""Which workers the driver starts and ends, and what it does when they die: with a Ray of stubs, in no time."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
import ray.exceptions

from calib.settings import SettingsError
from sweep import plan, remote
from sweep.config import parse_study
from sweep.plan import Trial
from sweep.remote import ClusterError, RayRunner
from sweep.results import Results
from sweep.runs.schedule import Job
from sweep.trial import Outcome

TRACEBACK = (
    "The actor died because of an error raised in its creation task, ray::_Actor.__init__() (pid=7)\n"
    + "".join(f'  File "remote.py", line {number}, in somewhere\n    much_text()\n' for number in range(20))
    + "RuntimeError: torch sees no GPU\n"
)


class Call:
    """The reference of a call that has been made."""

    def __init__(self, actor: Any, job: Job | None = None) -> None:
        self.actor, self.job = actor, job


class Actor:
    def __init__(self) -> None:
        self.up = self.killed = False
        self.process = self

    def remote(self) -> Call:
        return Call(self)


class Stubs:
    """Ray as far as the driver sees it: nodes of one GPU, actors that start where there is room, and an autoscaler
    that gives each actor that waits a node, up to `most`. Everything finishes at once, oldest first."""

    exceptions = ray.exceptions

    def __init__(self, nodes: int, most: int) -> None:
        self.nodes, self.most = nodes, most
        self.actors: list[Actor] = []
        self.pending: list[int] = []  # seen at each wait
        self.together = 0  # most trials at a time
        self.dies: Callable[[Trial], bool] = lambda trial: False
        self.cannot_start: Callable[[], bool] = lambda: False
        self.order: Callable[[Call], Any] = lambda call: 0  # in which trials finish

    def resources(self) -> list[dict[str, float]]:
        return [{"CPU": 8.0}, *({"CPU": 16.0, "GPU": 1.0} for _ in range(self.nodes))]

    def remote(self, **_: Any) -> Any:
        def make(*_: Any) -> Actor:
            self.actors.append(Actor())
            return self.actors[-1]

        return lambda _: type("Class", (), {"remote": staticmethod(make)})

    def is_initialized(self) -> bool:
        return False

    def kill(self, actor: Actor) -> None:
        actor.killed, actor.up = True, False

    def waiting(self) -> list[Actor]:
        return [actor for actor in self.actors if not actor.up and not actor.killed]

    def wait(self, calls: list[Call], **_: Any) -> tuple[list[Call], list[Call]]:
        assert calls, "the driver waits for nothing"
        for actor in self.waiting():
            if sum(other.up for other in self.actors) < self.nodes:
                actor.up = True
        self.pending.append(len(self.waiting()))
        self.together = max(self.together, sum(call.job is not None for call in calls))
        self.nodes = min(self.most, self.nodes + len(self.waiting()))
        ready = [call for call in calls if call.actor.up or call.actor.killed]
        return sorted(ready, key=lambda call: (call.job is not None, call.job and self.order(call)))[:1], calls

    def get(self, call: Call) -> Any:
        if call.job is None:
            if self.cannot_start():
                raise ray.exceptions.RayActorError(error_msg=TRACEBACK)
            return 1
        if self.dies(call.job.trial):
            raise ray.exceptions.RayActorError(error_msg="The actor is dead because its worker process has died.")
        return Outcome(call.job.trial, "ok", call.job.attempts)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[..., tuple[RayRunner, Stubs, list[str]]]:
    def made(nodes: int = 2, most: int = 8, **options: Any) -> tuple[RayRunner, Stubs, list[str]]:
        stubs, said = Stubs(nodes, most), []
        monkeypatch.setattr(remote, "ray", stubs)
        monkeypatch.setattr(remote, "_nodes", stubs.resources)
        monkeypatch.setattr(remote, "_connect", lambda *_: None)
        monkeypatch.setattr(remote, "LOOK_SECONDS", 0.0)
        monkeypatch.setattr(remote, "_head", lambda: None)
        runner = RayRunner(str(tmp_path), {}, **{"address": "auto", **options}, notify=said.append)
        monkeypatch.setattr(runner, "_submit", Call)
        return runner, stubs, said

    return made


@pytest.fixture
def trials(document: dict[str, Any]) -> list[Trial]:
    document["calibration"]["sets"] = 10
    return plan.expand(parse_study(document))


def run(runner: RayRunner, trials: list[Trial]) -> list[Outcome]:
    assert runner.start() == "cuda"
    return list(runner.run([Job(trial) for trial in trials]))


def test_cluster_grows_while_trials_wait(make: Any, trials: list[Trial]) -> None:
    runner, stubs, _ = make(nodes=2, most=8)
    outcomes = run(runner, trials)
    assert sorted(outcome.trial.id for outcome in outcomes) == sorted(trial.id for trial in trials)
    assert stubs.together == stubs.nodes == runner.workers == 8
    assert max(stubs.pending) == 8  # as many again as there are
    assert stubs.pending[0] == 2


def test_no_more_workers_wait_than_trials(make: Any, trials: list[Trial]) -> None:
    runner, stubs, _ = make(nodes=2, most=2)
    assert len(run(runner, trials[:5])) == 5
    assert stubs.pending == sorted(stubs.pending, reverse=True)
    assert stubs.pending[0] == 2
    assert stubs.pending[-1] == 0
    assert all(actor.killed for actor in stubs.actors)  # also those that never came up


def test_given_number_of_workers_is_kept(make: Any, trials: list[Trial]) -> None:
    runner, stubs, _ = make(nodes=2, most=8, workers=3)
    run(runner, trials)
    assert len(stubs.actors) == stubs.together == 3


def test_first_node_is_asked_for_when_there_is_none(
    make: Any, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, stubs, said = make(nodes=0)
    seen: list[int] = []

    def sleep(_: float) -> None:
        seen.append(len(stubs.waiting()))
        stubs.nodes = 1

    monkeypatch.setattr(remote.time, "sleep", sleep)
    assert len(run(runner, trials[:4])) == 4
    assert seen == [1]
    assert "waiting up to 10 minutes" in said[0]


def test_model_that_kills_its_workers_does_not_stop_the_others(
    make: Any, document: dict[str, Any], other_model: Any
) -> None:
    document["models"].append(str(other_model))
    document["calibration"]["sets"] = 3
    trials = plan.expand(parse_study(document))
    bad = [trial for trial in trials if trial.model.name == "tiny"]
    runner, stubs, said = make(nodes=1, most=1, workers=1)
    stubs.dies = lambda trial: trial.model.name == "tiny"
    runner.start()
    outcomes = []
    with pytest.raises(ClusterError, match=f"they held tiny, so {len(bad) - 3} more trials were not started"):
        for outcome in runner.run([Job(trial) for trial in trials]):
            outcomes.append(outcome)
    assert [outcome.status for outcome in outcomes] == ["ok"] * (len(trials) - len(bad)) + ["failed"] * 3
    rows = Results(runner.results).read("trials")
    assert set(rows["status"]) == {"failed"}
    assert set(rows["trial_id"]) < {trial.id for trial in bad}
    assert "its worker died, as did those of other trials of tiny" in rows["error"][0]
    assert len(stubs.actors) == 1 + 3
    assert any(f"the {len(bad)} that wait are set aside" in line for line in said)


def test_model_is_brought_back_when_a_trial_of_it_finishes_elsewhere(make: Any, trials: list[Trial]) -> None:
    runner, stubs, said = make(nodes=2, most=2, workers=2)
    first, shaky = trials[0].id, {trial.id for trial in trials[1:4]}
    stubs.order = lambda call: call.job.trial.id == first and bool(shaky)  # the first trial takes longer

    def dies(trial: Trial) -> bool:
        gone = trial.id in shaky
        shaky.discard(trial.id)
        return gone

    stubs.dies = dies
    outcomes = run(runner, trials)
    assert len(outcomes) == len(trials)
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert any("are set aside" in line for line in said)


def test_poisoned_trials_fail_and_their_model_goes_on(make: Any, trials: list[Trial]) -> None:
    runner, stubs, _ = make(nodes=1, most=1)
    poisoned = {trials[2].id, trials[9].id}
    stubs.dies = lambda trial: trial.id in poisoned
    outcomes = run(runner, trials)
    assert {outcome.trial.id for outcome in outcomes if outcome.status == "failed"} == poisoned
    assert len(outcomes) == len(trials)
    assert all("died 3 times" in str(outcome.error) for outcome in outcomes if outcome.status == "failed")


def test_node_that_takes_many_workers_with_it_counts_once(make: Any, trials: list[Trial]) -> None:
    runner, stubs, said = make(nodes=8, most=8)
    lost = {trial.id for trial in trials[:8]}

    def dies(trial: Trial) -> bool:
        gone = trial.id in lost
        lost.discard(trial.id)
        return gone

    stubs.dies = dies
    assert {outcome.status for outcome in run(runner, trials)} == {"ok"}
    assert not any("are set aside" in line for line in said)


def test_workers_that_cannot_start_stop_the_sweep_with_the_reason(make: Any, trials: list[Trial]) -> None:
    runner, stubs, said = make(nodes=1, most=1)
    stubs.cannot_start = lambda: True
    runner.start()
    with pytest.raises(ClusterError, match="10 workers one after the other could not start: RuntimeError: torch sees"):
        list(runner.run([Job(trial) for trial in trials]))
    assert said[-1] == "a worker could not start: RuntimeError: torch sees no GPU"


def test_nodes_where_no_worker_starts_do_not_stop_those_that_work(make: Any, trials: list[Trial]) -> None:
    runner, stubs, said = make(nodes=2, most=8)
    started: list[int] = []

    def third() -> bool:
        started.append(1)
        return len(started) > 2

    stubs.cannot_start = third
    assert len(run(runner, trials)) == len(trials)
    assert len(started) == 12
    assert any("going on with" in line for line in said)


def test_trial_that_is_there_already_is_not_run_again(make: Any, trials: list[Trial]) -> None:
    from sweep.trial import describe

    runner, stubs, _ = make(nodes=1, most=1)
    Results(runner.results).commit({**describe(trials[3]), "status": "ok", "weights_hash": "first"})
    stubs.dies = lambda trial: trial.id == trials[3].id
    outcomes = run(runner, trials[:5])
    assert [outcome.status for outcome in outcomes] == ["ok"] * 5
    assert Results(runner.results).read("trials")["weights_hash"].to_list() == ["first"]


def test_worker_that_dies_after_its_last_write_does_not_undo_it(make: Any, trials: list[Trial]) -> None:
    from sweep.trial import describe

    runner, stubs, _ = make(nodes=1, most=1)

    def writes_and_dies(trial: Trial) -> bool:
        Results(runner.results).commit({**describe(trial), "status": "ok"})
        return True

    stubs.dies = writes_and_dies
    assert [outcome.status for outcome in run(runner, trials[:2])] == ["ok"] * 2
    assert Results(runner.results).read("trials")["status"].to_list() == ["ok"] * 2


def test_workers_on_cpus_leave_one_for_rebuilding(make: Any) -> None:
    runner, stubs, _ = make(nodes=1, most=1, gpus_per_worker=0.0)
    assert runner.start() == "cpu"
    runner._hire(runner.workers + runner._spare())
    assert len(stubs.actors) == 8 + 16 - 1


def test_cluster_without_room_is_refused(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, stubs, _ = make(nodes=0, most=0)
    monkeypatch.setattr(remote, "NODES_MINUTES", 0.0)
    with pytest.raises(SettingsError, match="--workers 1: there are 0 GPUs"):
        runner.start()
    runner._dismiss()
    assert all(actor.killed for actor in stubs.actors)


@pytest.mark.parametrize("failures", [1, 2])
def test_slow_start_of_ray_is_tried_once_more_and_then_told(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[dict[str, Any]] = []

    def init(**arguments: Any) -> None:
        starts.append(arguments)
        if len(starts) <= failures:
            raise Exception("The current node timed out during startup. This could happen because some of the raylet")

    monkeypatch.setattr(remote.ray, "init", init)
    monkeypatch.setattr(remote.ray, "shutdown", lambda: None)
    if failures == 1:
        remote._connect(None, 2)
    else:
        with pytest.raises(SettingsError, match=r"tried 2 times \(The current node timed out .*--local runs the same"):
            remote._connect(None, 2)
    assert [start["address"] for start in starts] == ["local", "local"]


def test_sigterm_stays_ours_when_ray_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(remote.ray, "init", lambda **_: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    remote._connect(None, 1)
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_while_ray_starts_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # as Ray does
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(remote.ray, "init", init)
    with pytest.raises(KeyboardInterrupt):
        remote._connect(None, 1)


def test_cluster_without_a_node_or_a_head_ends_the_sweep(make: Any, trials: list[Trial], monkeypatch: Any) -> None:
    runner, _, _ = make()
    runner.start()
    monkeypatch.setattr(remote, "_nodes", list)
    with pytest.raises(ClusterError, match="no node of Ray is alive any more"):
        list(runner.run([Job(trial) for trial in trials]))
    runner, _, _ = make()
    runner.start()
    monkeypatch.setattr(remote, "_head", lambda: "127.0.0.1:1")
    monkeypatch.setattr(remote, "HEAD_SECONDS", 0.0)
    with pytest.raises(ClusterError, match="the head of Ray at 127.0.0.1:1 is gone"):
        list(runner.run([Job(trial) for trial in trials]))
