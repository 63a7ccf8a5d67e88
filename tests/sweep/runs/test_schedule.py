"""Which trial a free worker takes next."""

from __future__ import annotations

from typing import Any

import pytest

from sweep import plan
from sweep.config import parse_study
from sweep.plan import Trial
from sweep.runs.schedule import Job, Queue, held_by, spread


@pytest.fixture
def trials(document: dict[str, Any]) -> list[Trial]:
    return plan.expand(parse_study(document))


def test_worker_keeps_its_model_until_none_of_its_trials_is_left(document: dict[str, Any], other_model: Any) -> None:
    document["models"].append(str(other_model))
    trials = plan.expand(parse_study(document))
    queue = Queue([Job(trial) for trial in trials])
    held, seen = None, []
    while queue:
        job = queue.take(held)
        held = held_by(job.trial)
        seen.append(job.trial)
    assert [trial.id for trial in seen] == [trial.id for trial in trials]


def test_two_workers_start_on_two_models_and_share_the_last_one(document: dict[str, Any], other_model: Any) -> None:
    document["models"].append(str(other_model))
    queue = Queue([Job(trial) for trial in plan.expand(parse_study(document))])
    first, second = queue.take(None), queue.take(None)
    assert {first.trial.model.name, second.trial.model.name} == {"tiny", "other"}
    for _ in range(5):
        assert queue.take(held_by(first.trial)).trial.model == first.trial.model
    assert queue.take(held_by(first.trial)).trial.model == second.trial.model


def test_the_next_trial_is_known_while_one_runs(document: dict[str, Any], other_model: Any) -> None:
    document["models"].append(str(other_model))
    queue = Queue([Job(trial) for trial in plan.expand(parse_study(document))])
    held, told, taken = None, [], []
    while queue:
        taken.append(queue.take(held))
        held = held_by(taken[-1].trial)
        told.append(queue.ahead(held))
    assert told == [*taken[1:], None]


def test_the_next_trial_of_a_worker_is_that_which_others_of_its_model_leave(trials: list[Trial]) -> None:
    queue = Queue([Job(trial) for trial in trials])
    held = held_by(queue.take(None).trial)
    queue.take(None)
    queue.take(None)
    told = queue.ahead(held)  # of the third worker, when the first two are free before it
    queue.take(held)
    queue.take(held)
    assert told == queue.take(held)


def test_trial_of_a_dead_worker_is_taken_last_of_its_model(trials: list[Trial]) -> None:
    queue = Queue([Job(trial) for trial in trials])
    job = queue.take(None)
    queue.put_back(job)
    taken = [queue.take(held_by(job.trial)) for _ in trials]
    assert [other.trial.id for other in taken] == [*(trial.id for trial in trials[1:]), job.trial.id]
    assert not queue


def test_longest_trials_of_a_model_come_first_and_one_of_a_dead_worker_among_its_like(trials: list[Trial]) -> None:
    seconds = [3.0, 9.0, 1.0, 9.0, 3.0, 2.0]
    queue = Queue([Job(trial, seconds=each) for trial, each in zip(trials, seconds, strict=True)])
    first = queue.take(None)
    assert first.trial == trials[1]
    queue.put_back(first)
    queue.put_back(Job(trials[0], seconds=2.5))
    held = held_by(first.trial)
    taken = [queue.take(held) for _ in range(7)]
    assert [job.trial for job in taken[:2]] == [trials[3], trials[1]]
    assert [job.seconds for job in taken] == [9.0, 9.0, 3.0, 3.0, 2.5, 2.0, 1.0]


def test_model_of_longer_trials_gets_the_worker_when_as_much_work_is_left(two_models: list[Trial]) -> None:
    seconds = {"tiny": 1.0, "other": 2.0}
    few = [trial for trial in two_models if trial.model.name == "tiny"]
    half = [trial for trial in two_models if trial.model.name == "other"][: len(few) // 2]
    queue = Queue([Job(trial, seconds=seconds[trial.model.name]) for trial in [*few, *half]])
    assert queue.take(None).trial.model.name == "other"


def test_suspended_model_gives_no_trials_until_it_is_resumed(document: dict[str, Any], other_model: Any) -> None:
    document["models"].append(str(other_model))
    trials = plan.expand(parse_study(document))
    queue = Queue([Job(trial) for trial in trials])
    held = held_by(queue.take(None).trial)
    assert queue.suspend(held) == 5
    assert len(queue) == 6
    assert {queue.take(held).trial.model.name for _ in range(6)} == {"other"}
    assert not queue
    assert len(queue.suspended()) == 5
    queue.resume(held)
    assert len(queue) == 5
    assert not queue.suspended()


def test_workers_that_load_ahead_are_spread_as_the_queue_would_begin() -> None:
    assert spread({"long": 30.0, "short": 10.0}, 4) == ["long", "long", "long", "short"]
    assert spread({"one": 2.0}, 8) == ["one", "one"]  # no more than there are trials
    assert spread({}, 8) == []
