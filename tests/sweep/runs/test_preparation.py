"""What trials wait for, made by tasks of paper: their results come when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from calib.settings import SettingsError
from sweep import plan
from sweep.config import parse_study
from sweep.evaluation.questions.largest import LargestId
from sweep.plan import Trial
from sweep.runs.phases import REQUESTS
from sweep.runs.preparation import Preparation
from sweep.runs.runner import RunnerError
from sweep.runs.schedule import Awaiting, Job


class PaperTasks:
    """Begins tasks, and ends those that it is told to. A reference is (function, number, which of its values)."""

    def __init__(self) -> None:
        self.arguments: dict[tuple[str, int], tuple[Any, ...]] = {}
        self.values: dict[Any, Any] = {}
        self.on_device: list[str] = []  # functions whose task holds a device
        self.near: list[str] = []  # those that are best run by the driver's machine

    def task(
        self, function: Callable[..., Any], *arguments: Any, returns: int, on_device: bool = False, near: bool = False
    ) -> list[Any]:
        name = function.__name__
        key = name, sum(other == name for other, _ in self.arguments)
        self.arguments[key] = arguments
        self.on_device += [name] * on_device
        self.near += [name] * near
        return [(*key, value) for value in range(returns)]

    def begun(self) -> list[tuple[str, Any]]:
        """Function and first argument of each task, in the order in which they were begun."""
        return [(name, arguments[0]) for (name, _), arguments in self.arguments.items()]

    def end(self, name: str, value: Any, numbers: Sequence[int] | None = None) -> None:
        """Tasks of this function (those with these numbers) return a value, or raise it."""
        for other, number in self.arguments:
            if other == name and (numbers is None or number in numbers):
                self.values[name, number, 0] = value

    def done(self, references: Sequence[Any]) -> list[Any]:
        found = [reference for reference in references if reference in self.values]
        assert found, f"{references} would be waited for, for ever"
        return found[:1]

    def result(self, reference: Any) -> Any:
        value = self.values[reference]
        if isinstance(value, Exception):
            raise value
        return value


@pytest.fixture
def trials(document: dict[str, Any]) -> list[Trial]:
    return plan.expand(parse_study(document))


@pytest.fixture
def tasks() -> PaperTasks:
    return PaperTasks()


@pytest.fixture
def preparation(trials: list[Trial], tasks: PaperTasks) -> Preparation:
    """Begun for a study of two sources, with models and requests there."""
    begun = Preparation(tasks)
    begun.begin(plan.pools(trials), plan.request_sets(trials), "results", "cuda")
    looked(tasks)
    tasks.end("requests_and_receipt", ())
    return begun


def looked(tasks: PaperTasks) -> None:
    """Models, sources and texts are as they should be."""
    tasks.end("check_model", 257)
    tasks.end("look_at_pool", None)
    tasks.end("look_at_texts", None)


def of(trials: list[Trial], source: str) -> set[str]:
    return {trial.id for trial in trials if trial.spec is not None and trial.spec.source.label == source}


def share_out(preparation: Preparation, trials: list[Trial], number: int) -> tuple[set[str], dict[str, str]]:
    jobs = [Job(trial) for trial in trials if trial.calibration_id in preparation.missing_ids]
    ready, refused = preparation.share_out(("sets_and_receipt", number, 0), Awaiting(jobs))
    return {job.trial.id for job in ready}, {job.trial.id: error for job, error in refused}


def test_trials_wait_for_their_own_set_alone(preparation: Preparation, tasks: PaperTasks, trials: list[Trial]) -> None:
    preparation.wait(ready=lambda: True)
    assert len(preparation.missing_ids) == 2
    tasks.end("sets_and_receipt", {}, [1])
    assert share_out(preparation, trials, 1) == (of(trials, "stones"), {})
    assert len(preparation.missing_ids) == 1


def test_sets_wait_for_no_requests_unless_they_leave_texts_of_the_evaluation_out(
    preparation: Preparation, tasks: PaperTasks, document: dict[str, Any]
) -> None:
    assert [tasks.arguments["sets_and_receipt", number][3] for number in (0, 1)] == [None, None]
    document["calibration"]["exclude_overlap"] = True
    again = plan.expand(parse_study(document))
    preparation.begin(plan.pools(again), plan.request_sets(again), "results", "cuda")
    assert tasks.arguments["sets_and_receipt", 2][3] == ("requests_and_receipt", 0, 1)


def test_sets_begin_before_what_needs_requests_which_can_wait_until_these_are_there(
    tasks: PaperTasks, document: dict[str, Any]
) -> None:
    document["calibration"]["exclude_overlap"] = [True, False]
    trials = plan.expand(parse_study(document))
    begun = Preparation(tasks)
    begun.begin(plan.pools(trials), plan.request_sets(trials), "results", "cpu", in_turn=True)
    of_sets = ("sets_and_receipt", "describe_pool")
    plain = [(name, pool.excludes) for name, pool in tasks.begun() if name in of_sets]
    assert plain == [("sets_and_receipt", False)] * 2
    looked(tasks)
    tasks.end("requests_and_receipt", ())
    begun.wait(ready=lambda: True)
    later = [(name, pool.excludes) for name, pool in tasks.begun() if name in of_sets][2:]
    assert later[:2] == [("sets_and_receipt", True)] * 2
    assert sorted(later[2:]) == [("describe_pool", False)] * 2 + [("describe_pool", True)] * 2
    assert begun.missing_ids == {trial.calibration_id for trial in trials if trial.calibration_id}


def test_models_are_looked_at_for_the_blocks_that_are_evaluated(tasks: PaperTasks, document: dict[str, Any]) -> None:
    document["evaluation"] = {"tasks": [], "heldout": ["books"], "heldout_windows": 2, "first_blocks": 1}
    trials = plan.expand(parse_study(document))
    Preparation(tasks).look([], plan.request_sets(trials), "results")
    assert tasks.arguments["check_model", 0][3] == 1


def test_requests_are_made_once_for_all_rounds_in_a_folder(
    preparation: Preparation, tasks: PaperTasks, trials: list[Trial]
) -> None:
    made = dict(preparation.requests)
    tasks.end("sets_and_receipt", {})
    phases: list[str] = []
    preparation.begin(plan.pools(trials), plan.request_sets(trials), "results", "cuda")
    looked(tasks)
    tasks.end("sets_and_receipt", {})
    tasks.end("check_reader", SettingsError("the model has moved"))
    assert preparation.requests == made
    with pytest.raises(SettingsError, match="has moved"):
        preparation.wait(lambda: False, lambda phase, *about: phases.append(phase))
    assert REQUESTS not in phases
    preparation.begin([], plan.request_sets(trials), "another", "cuda")  # its trials may have other requests
    assert preparation.requests != made


def test_wrong_sets_end_the_launch_while_no_worker_could_begin(preparation: Preparation, tasks: PaperTasks) -> None:
    tasks.end("sets_and_receipt", {}, [0])
    tasks.end("sets_and_receipt", SettingsError("too little text"), [1])
    with pytest.raises(SettingsError, match="too little text"):
        preparation.wait(ready=lambda: False)


def test_wrong_models_and_requests_end_the_launch_although_a_worker_could_begin(
    trials: list[Trial], tasks: PaperTasks
) -> None:
    begun = Preparation(tasks)
    begun.begin(plan.pools(trials), plan.request_sets(trials), "results", "cuda")
    looked(tasks)
    tasks.end("requests_and_receipt", (LargestId(300, "task tiny_a"),))
    with pytest.raises(SettingsError, match="task tiny_a"):
        begun.wait(ready=lambda: True)


def test_later_sets_that_cannot_be_built_fail_their_trials_alone(
    preparation: Preparation, tasks: PaperTasks, trials: list[Trial]
) -> None:
    preparation.wait(ready=lambda: True)
    tasks.end("sets_and_receipt", SettingsError("too little text"), [0])
    assert share_out(preparation, trials, 0) == (set(), dict.fromkeys(of(trials, "rivers"), "too little text"))
    tasks.end("sets_and_receipt", {}, [1])
    assert share_out(preparation, trials, 1) == (of(trials, "stones"), {})
    tasks.end("describe_pool", None, [1])
    preparation.wait_until_described()  # there is nothing to describe of the first, whose task cannot end


def test_ids_that_the_model_does_not_know_fail_the_trials_of_their_set(
    preparation: Preparation, tasks: PaperTasks, trials: list[Trial]
) -> None:
    preparation.wait(ready=lambda: True)
    stones = next(trial.calibration_id for trial in trials if trial.id in of(trials, "stones"))
    tasks.end("sets_and_receipt", {stones: LargestId(257, "calibration: source 'stones'")}, [1])
    ready, refused = share_out(preparation, trials, 1)
    assert not ready
    assert set(refused) == of(trials, "stones")
    assert all("embeddings for 0 to 256 alone" in error for error in refused.values())


def test_descriptions_that_fail_are_told_at_the_end(preparation: Preparation, tasks: PaperTasks) -> None:
    tasks.end("sets_and_receipt", {})
    preparation.wait(ready=lambda: False)
    assert not preparation.missing
    tasks.end("describe_pool", OSError("no space left"))
    with pytest.raises(RunnerError, match="what describes the calibration sets could not be made: no space left"):
        preparation.wait_until_described()


def test_descriptions_that_fail_before_any_trial_end_the_launch_as_what_is_wrong(
    preparation: Preparation, tasks: PaperTasks
) -> None:
    tasks.end("sets_and_receipt", {})
    tasks.end("describe_pool", SettingsError("the describer is no model"))
    with pytest.raises(SettingsError, match="the describer is no model"):
        preparation.wait(ready=lambda: False, described=True)


def test_a_bug_met_while_a_later_set_is_built_fails_its_trials_alone(
    preparation: Preparation, tasks: PaperTasks, trials: list[Trial]
) -> None:
    tasks.end("sets_and_receipt", KeyError("text"), [0])
    refused = share_out(preparation, trials, 0)[1]
    assert refused == dict.fromkeys(of(trials, "rivers"), "KeyError: 'text'")


def test_a_cluster_that_is_gone_is_no_fault_of_a_set(
    preparation: Preparation, tasks: PaperTasks, trials: list[Trial]
) -> None:
    tasks.end("sets_and_receipt", RunnerError("the head of Ray is gone"), [0])
    with pytest.raises(RunnerError, match="the head of Ray is gone"):
        share_out(preparation, trials, 0)


def test_sets_of_finished_trials_that_cannot_be_made_again_are_told_at_the_end(
    preparation: Preparation, tasks: PaperTasks
) -> None:
    tasks.end("sets_and_receipt", SettingsError("built from other text"), [0])
    assert preparation.share_out(("sets_and_receipt", 0, 0), Awaiting()) == ([], [])
    tasks.end("describe_pool", SettingsError("built from other text"), [0])  # as a task whose arguments failed
    tasks.end("describe_pool", None, [1])
    with pytest.raises(RunnerError, match="built from other text"):
        preparation.wait_until_described()


def test_a_device_that_fails_while_sets_are_described_is_told_in_a_line(
    preparation: Preparation, tasks: PaperTasks
) -> None:
    tasks.end("describe_pool", RuntimeError("CUDA error"))
    with pytest.raises(RunnerError, match="could not be made: RuntimeError: CUDA error"):
        preparation.wait_until_described()


def test_sets_that_a_model_makes_on_a_device_can_be_read_again_without_one(
    tasks: PaperTasks, document: dict[str, Any]
) -> None:
    document["calibration"]["source"] = {"source": "self_generated", "documents": 12, "length": 40}
    trials = plan.expand(parse_study(document))
    begun = Preparation(tasks)
    begun.begin(plan.pools(trials), plan.request_sets(trials), "results", "cuda")
    assert tasks.on_device == ["make_on_device"]
    assert tasks.arguments["make_on_device", 0][2] == "cuda"
    assert set(begun.sets.values()) == {("made_sets_and_receipt", 0, 1)}
    assert tasks.arguments["made_sets_and_receipt", 0][0] == ("make_on_device", 0, 0)


def test_waiting_for_what_describes_sets_is_told_once(
    preparation: Preparation, tasks: PaperTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, said = [[], [], *([reference] for reference in preparation._described.values())], []
    monkeypatch.setattr(tasks, "done", lambda _: looks.pop(0))
    tasks.end("describe_pool", None)
    preparation.wait_until_described(said.append)
    assert said == ["all trials have ended; what describes calibration sets is made (2 groups left)"]
