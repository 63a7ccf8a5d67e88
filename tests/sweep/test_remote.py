"""Real Ray on this machine: two workers, workers and drivers that are killed, and the same table in the end."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweep import plan
from sweep.config import parse_study
from sweep.results import Results
from sweep.schedule import Job

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

Document = dict[str, Any]
Write = Callable[[Document], str]


def numbers(root: str | Path) -> list[Any]:
    """Everything in the results that must not depend on how and where the study was run."""
    results = Results(root)
    trials = results.read("trials").drop(
        "seconds_total",
        "seconds_restore",
        "seconds_compress",
        "seconds_tasks",
        "seconds_windows",
        "seconds_write",
        "peak_memory",
        "worker",
        "started",
        "attempts",
    )
    tables = [results.read(name) for name in ("metrics", "samples", "calibration")]
    return [trials.to_dicts(), *(table.rows() for table in tables), results.read("layers").drop("seconds").rows()]


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes a runner of two workers on a Ray of its own."""
    from sweep.launch import provenance
    from sweep.remote import RayRunner

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made = []

    def make(**options: Any) -> Any:
        result = RayRunner(str(tmp_path / "results"), provenance(), **{"workers": 2, **options})
        made.append(result)
        return result

    yield make
    for result in made:
        result.close()


def start(runner: Any, trials: list[plan.Trial]) -> None:
    from sweep.launch import evaluations_with_lengths

    assert runner.start() == "cpu"
    runner.prepare(plan.pools(trials), evaluations_with_lengths(trials))


def test_one_worker_and_two_give_the_same_table(
    run_python: Any, write_study: Write, document: Document, other_model: Path
) -> None:
    document["models"].append(str(other_model))
    local = run_python("-m", "sweep.launch", write_study(document), "--local", "--results", "one")
    assert local.returncode == 0, local.stdout + local.stderr
    turned = copy.deepcopy(document)
    turned["calibration"]["source"].reverse()
    turned["methods"].reverse()
    turned["models"].reverse()
    two = run_python("-m", "sweep.launch", write_study(turned), "--workers", "2", "--results", "two", timeout=300)
    assert two.returncode == 0, two.stdout + two.stderr
    assert "12 done, 0 failed, 0 skipped" in two.stdout
    folder = Path(local.args[3]).parent
    assert numbers(folder / "one") == numbers(folder / "two")
    workers = Results(folder / "two").read("trials").get_column("worker").unique()
    assert len(workers) == 2
    assert "Warning" not in two.stderr + local.stderr


def test_killed_worker_is_replaced_and_its_trial_started_again(
    runner: Callable[..., Any], document: Document, tmp_path: Path
) -> None:
    trials = plan.expand(parse_study({**document, "calibration": {**document["calibration"], "sets": 3}}))
    said: list[str] = []
    ray_runner = runner(notify=said.append)
    start(ray_runner, trials)
    outcomes, killed = [], None
    for outcome in ray_runner.run([Job(trial) for trial in trials]):
        outcomes.append(outcome)
        if killed is None:
            killed = int(Results(tmp_path / "results").read("trials")["worker"][0].rpartition(":")[2])
            os.kill(killed, signal.SIGKILL)
    assert sorted(outcome.trial.id for outcome in outcomes) == sorted(trial.id for trial in trials)
    assert {outcome.status for outcome in outcomes} == {"ok"}
    rows = Results(tmp_path / "results").read("trials")
    assert rows.get_column("attempts").max() == 2
    assert any("a worker died during" in line for line in said)
    assert len(rows.get_column("worker").unique()) == 3  # two at first, and the new one


def test_trial_that_kills_its_worker_becomes_a_failed_row_and_the_rest_goes_on(
    runner: Callable[..., Any], document: Document, tmp_path: Path
) -> None:
    """The poison is a tokenizer-sized trap: a method whose compression ends the process."""
    trials = plan.expand(parse_study(document))
    ray_runner = runner(notify=lambda _: None)
    start(ray_runner, trials)
    poisoned = trials[2].id
    submit = ray_runner._submit

    def submit_or_die(actor: Any, job: Job) -> Any:
        reference = submit(actor, job)
        if job.trial.id == poisoned:
            import ray

            ray.kill(actor)
        return reference

    ray_runner._submit = submit_or_die
    outcomes = {outcome.trial.id: outcome for outcome in ray_runner.run([Job(trial) for trial in trials])}
    assert len(outcomes) == 6
    assert [trial_id for trial_id, outcome in outcomes.items() if outcome.status == "failed"] == [poisoned]
    rows = {row["trial_id"]: row for row in Results(tmp_path / "results").read("trials").iter_rows(named=True)}
    assert rows[poisoned]["status"] == "failed"
    assert rows[poisoned]["phase"] == "worker"
    assert rows[poisoned]["attempts"] == 3
    assert "its worker died 3 times" in rows[poisoned]["error"]


def test_killed_driver_loses_nothing_and_a_rerun_gives_the_same_table(
    run_python: Any, start_launch: Any, write_study: Write, document: Document, tmp_path: Path
) -> None:
    document["calibration"]["sets"] = 3
    study = write_study(document)
    process = start_launch([study, "--workers", "2", "--results", "killed"])
    wait_for(lambda: len(Results(tmp_path / "killed").keys("trials")) >= 3, process)
    process.kill()
    process.wait()
    kept = len(Results(tmp_path / "killed").keys("trials"))
    assert 3 <= kept < 14
    again = run_python("-m", "sweep.launch", study, "--workers", "2", "--results", "killed", timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "0 to run" not in again.stdout
    whole = run_python("-m", "sweep.launch", study, "--local", "--results", "whole")
    assert whole.returncode == 0
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    last = run_python("-m", "sweep.launch", study, "--results", "killed")
    assert last.returncode == 0
    assert "14 already there, 0 to run" in last.stdout


def test_interrupt_ends_quickly_and_says_what_is_kept(
    start_launch: Any, write_study: Write, document: Document, tmp_path: Path
) -> None:
    document["calibration"]["sets"] = 8
    process = start_launch([write_study(document), "--workers", "1", "--results", "r"])
    wait_for(lambda: len(Results(tmp_path / "r").keys("trials")) >= 2, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "trials are kept in r; the same command goes on" in output
    assert "Traceback" not in output


def test_too_little_text_is_found_by_the_tasks_before_any_worker_starts(
    run_python: Any, write_study: Write, document: Document, tmp_path: Path
) -> None:
    document["calibration"].update(sampling="long_documents", seqlen=64, nsamples=8, sets=6)
    result = run_python("-m", "sweep.launch", write_study(document), "--workers", "1")
    assert result.returncode == 2, result.stdout + result.stderr
    assert "which is enough for 5 sets" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "results/tiny/trials").exists()


def test_resources_that_do_not_exist_are_refused(runner: Callable[..., Any]) -> None:
    from calib.settings import SettingsError

    first = runner(workers=1)
    assert first.start() == "cpu"
    first.asked_workers = 99
    with pytest.raises(SettingsError, match=r"--workers 99: the cluster has 0 GPUs and \d+ CPUs, room for \d+ workers"):
        first.check_room()


def test_cluster_that_does_not_answer_is_explained(run_python: Any, write_study: Write, document: Document) -> None:
    result = run_python("-m", "sweep.launch", write_study(document), "--address", "127.0.0.1:1", timeout=200)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "--address 127.0.0.1:1: no Ray cluster answers" in result.stderr


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)
