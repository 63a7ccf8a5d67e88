"""Real Ray on this machine: two workers, workers and drivers that are killed, and the same table in the end."""

from __future__ import annotations

import copy
import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import Result

from calib.settings import SettingsError
from sweep import plan, remote
from sweep.config import parse_study
from sweep.remote import RayRunner, connect
from sweep.results import Results
from sweep.runs import hands
from sweep.runs.connection import TEMPORARY
from sweep.runs.hiring import hiring_of
from sweep.runs.prepare import make_calibration_sets
from sweep.runs.provenance import provenance
from sweep.runs.runner import RunOptions
from sweep.runs.schedule import Job
from tests.sweep.processes import child, family, files_with, listening

pytestmark = pytest.mark.ray

SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN")  # of the environment that launches run in
Document = dict[str, Any]
Write = Callable[[Document], str]
Launch = Callable[..., Result]


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
        "files",  # bytes, of rows that hold seconds as well
        "commit",
    )
    tables = [results.read(name) for name in ("metrics", "samples", "calibration")]
    return [trials.to_dicts(), *(table.rows() for table in tables), results.read("layers").drop("seconds").rows()]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As workers have: the sums of more threads may differ in their last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What the runner told the person in front of it."""
    return []


@pytest.fixture(scope="module")
def runner(said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A runner of two workers on a Ray of its own, shared by the tests because Ray takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_worker_niceness", "0")  # beside other work they would starve
        patch.setenv("RAY_metrics_report_interval_ms", "200")
        result = RayRunner(str(tmp_path_factory.mktemp("results")), provenance(), RunOptions(workers=2), said.append)
        assert result.start() == "cpu"
        yield result
        result.close()


def prepare(runner: Any, document: Document, **calibration: Any) -> list[plan.Trial]:

    trials = plan.expand(parse_study({**document, "calibration": {**document["calibration"], **calibration}}))
    runner.prepare(plan.pools(trials), plan.request_sets(trials))
    return trials


def test_ray_starts_no_process_for_work_that_nobody_has(runner: Any) -> None:
    programs = [Path(f"/proc/{number}/comm").read_text().strip() for number in family(os.getpid())]
    assert "raylet" in programs and not [program for program in programs if program.startswith("ray::IDLE")]


def test_one_worker_and_two_give_the_same_table(
    runner: Any,
    launch: Launch,
    write_study: Write,
    document: Document,
    other_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    import ray

    document["models"].append(str(other_model))
    local = launch(write_study(document), "--local", "--results", "one")
    assert local.exit_code == 0, local.output
    turned = copy.deepcopy(document)
    turned["calibration"]["source"].reverse()
    turned["methods"].reverse()
    turned["models"].reverse()
    monkeypatch.setattr(runner, "results", str(tmp_path / "two"))
    trials = prepare(runner, turned)
    ray.wait(runner.hire(2), num_returns=2)  # so that one of them cannot finish before the other is up
    outcomes = list(runner.run([Job(trial) for trial in trials]))
    assert [outcome.status for outcome in outcomes] == ["ok"] * 12
    assert numbers(tmp_path / "one") == numbers(tmp_path / "two")
    workers = Results(tmp_path / "two").read("trials").get_column("worker").unique()
    assert len(workers) == 2


def test_killed_worker_is_replaced_and_its_trial_started_again(
    runner: Any, document: Document, said: list[str]
) -> None:
    trials = prepare(runner, document, sets=3)
    outcomes, size = [], 0
    for outcome in runner.run([Job(trial) for trial in trials]):
        outcomes.append(outcome)
        if len(outcomes) == 1:
            worker = Results(runner.results).read("trials")["worker"][0]
            os.kill(int(worker.rpartition(":")[2]), signal.SIGKILL)
        size = max(size, runner.hiring.size)
    assert sorted(outcome.trial.id for outcome in outcomes) == sorted(trial.id for trial in trials)
    assert {outcome.status for outcome in outcomes} == {"ok"}
    rows = Results(runner.results).read("trials")
    assert len(rows) == 14
    assert rows.get_column("attempts").max() == 2
    assert any("a worker died during" in line for line in said)
    assert size == 2


def test_trial_that_kills_its_worker_becomes_a_failed_row_and_the_rest_goes_on(
    runner: Any, document: Document, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray

    monkeypatch.setattr(runner, "results", str(tmp_path))  # where none of its trials is there yet
    trials = prepare(runner, document)
    poisoned, submit = trials[2].id, runner.submit

    def submit_and_die(actor: Any, job: Job) -> Any:
        reference = submit(actor, job)
        if job.trial.id == poisoned:
            ray.kill(actor)
        return reference

    monkeypatch.setattr(runner, "submit", submit_and_die)
    outcomes = {outcome.trial.id: outcome for outcome in runner.run([Job(trial) for trial in trials])}
    assert len(outcomes) == 6
    assert [trial_id for trial_id, outcome in outcomes.items() if outcome.status == "failed"] == [poisoned]
    row = {row["trial_id"]: row for row in Results(runner.results).read("trials").iter_rows(named=True)}[poisoned]
    assert (row["status"], row["phase"], row["attempts"]) == ("failed", "worker", 3)
    assert "its worker died 3 times" in row["error"]


def test_workers_that_stay_run_the_next_round_in_another_folder(
    runner: Any, document: Document, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runner, "stay", True)
    workers = []
    for number, source in enumerate(document["calibration"]["source"]):
        runner.write_to(str(tmp_path / str(number)))
        trials = prepare(runner, document, source=source)  # both CPUs of Ray are held by workers the second time
        outcomes = list(runner.run([Job(trial) for trial in trials]))
        assert [outcome.status for outcome in outcomes] == ["ok"] * 4
        rows = Results(tmp_path / str(number)).read("trials")
        assert set(rows["trial_id"]) == {trial.id for trial in trials}
        workers.append(set(rows["worker"]))
    assert workers[1] <= workers[0] | {f"{socket.gethostname()}:{pid}" for pid in pids(runner)}
    assert runner.crew.size == 2
    monkeypatch.setattr(runner, "stay", False)
    assert list(runner.run([])) == []
    assert runner.crew.size == 0


def test_ray_metrics_say_how_far_the_trials_are(
    runner: Any, document: Document, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray

    (node,) = ray.nodes()
    monkeypatch.setattr(runner, "results", str(tmp_path))
    trials = prepare(runner, document)
    assert len(list(runner.run([Job(trial) for trial in trials]))) == 6
    deadline = time.monotonic() + 60
    while (found := sweep_metrics(node)).get('ray_sweep_trials{state="done"}') != 6 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert found['ray_sweep_trials{state="done"}'] == 6
    assert found['ray_sweep_trials{state="failed"}'] == found['ray_sweep_trials{state="waiting"}'] == 0
    assert found['ray_sweep_workers{state="starting"}'] >= 0
    assert found['ray_sweep_phase_seconds_total{phase="evaluate"}'] > 0


def sweep_metrics(node: dict[str, Any]) -> dict[str, float]:
    """Ours, as the metrics endpoint of a node tells them, without the tags that Ray adds."""
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("ray_sweep_")]
    found = {}
    for line in lines:
        name, tags, value = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line).groups()  # type: ignore[union-attr]
        own = [tag for tag in tags.split(",") if tag.startswith(("state=", "phase="))]
        found[f"{name}{{{','.join(own)}}}"] = float(value)
    return found


def pids(runner: Any) -> list[int]:
    """The processes of the workers that are up."""
    import ray

    return list(ray.get([actor.process.remote() for actor in runner.crew.free]))


def test_what_cannot_work_is_found_before_any_worker_starts(runner: Any, document: Document) -> None:
    with pytest.raises(SettingsError, match=r"sets 0 to 5 of 8 windows need 48, which is enough for 5 sets"):
        prepare(runner, document, sampling="long_documents", seqlen=64, nsamples=8, sets=6)


def test_a_model_writes_the_same_text_in_a_task(
    runner: Any, document: Document, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runner, "results", str(tmp_path / "task"))
    trials = prepare(runner, document, source={"source": "self_generated", "documents": 12, "length": 40})
    (pool,) = plan.pools(trials)
    (here,) = make_calibration_sets(pool, str(tmp_path / "here"))
    assert set(Results(tmp_path / "task").read("calibration")["hash"]) == {here.hash}


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
        connect(RunOptions(workers=2))
    else:
        with pytest.raises(SettingsError, match=r"tried 2 times \(The current node timed out .*--local runs the same"):
            connect(RunOptions(workers=2))
    assert [start["address"] for start in starts] == ["local", "local"]


class Begun(Exception):
    """There are hands."""


@pytest.fixture
def no_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants some is told that there would be."""

    def begin(*_: Any) -> None:
        raise Begun

    monkeypatch.setattr(hands, "Hands", begin)


def test_what_ray_reads_on_import_is_set_before_there_are_threads_that_may_import_it(
    no_hands: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {})
    with pytest.raises(Begun):
        RayRunner("results", {}).foresee([], {})
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_nothing_is_done_ahead_where_forks_may_not_live(no_hands: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    RayRunner("results", {}).foresee([], {})


class PaperRay:
    """In place of Ray: a machine with a GPU, and workers of which each call is written down."""

    get = wait = None

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}]

    def remote(self, **needs: Any) -> Callable[[type], Any]:
        return lambda _: SimpleNamespace(remote=self._worker)

    def _worker(self, *_: Any) -> Any:
        worker = Mock()
        worker.process.remote.side_effect = lambda: self.calls.append("start") or object()  # type: ignore[func-returns-value]
        worker.warm.remote.side_effect = lambda model: self.calls.append(f"load {model.name}")
        return worker


@pytest.mark.parametrize(
    ("address", "expected"),
    [(None, ["start", "looks", "load tiny", "wait"]), ("auto", ["looks", "start", "load tiny", "wait"])],
)
def test_workers_start_while_a_study_is_looked_at_but_load_nothing_and_not_on_a_cluster(
    address: str | None, expected: list[str], document: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(remote, "ray", PaperRay(calls))
    options = RunOptions(address=address, workers=1)
    runner = RayRunner("results", {}, options)
    runner._device, runner.workers, runner.hiring = "cuda", 1, hiring_of(runner.crew, options, "cuda")
    runner.preparation = Mock()
    runner.preparation.wait_for_looks.side_effect = lambda *_, **__: calls.append("looks")
    runner.preparation.wait.side_effect = lambda *_, **__: calls.append("wait")
    trials = plan.expand(parse_study(document))
    runner.prepare(plan.pools(trials), plan.request_sets(trials))
    assert calls == expected


def test_sigterm_stays_ours_when_ray_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(remote.ray, "init", lambda **_: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    connect(RunOptions(workers=1))
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_while_ray_starts_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # as Ray does
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(remote.ray, "init", init)
    with pytest.raises(KeyboardInterrupt):
        connect(RunOptions(workers=1))


def test_interrupted_and_killed_drivers_lose_nothing_and_a_rerun_gives_the_same_table(
    run_python: Any, start_launch: Any, launch: Launch, write_study: Write, document: Document, tmp_path: Path
) -> None:
    document["calibration"]["sets"] = 6
    arguments = [write_study(document), "--workers", "2", "--results", "r"]

    def committed() -> int:
        return len(Results(tmp_path / "r").keys("trials"))

    process = start_launch(arguments)
    wait_for(lambda: committed() >= 3, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "of 26 trials are kept in r; the same command goes on" in output
    assert "Traceback" not in output
    first = committed()

    process = start_launch(arguments)
    wait_for(lambda: committed() >= first + 3, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    said = "the launch is gone: what is finished is kept in r, and the same command goes on\n"
    assert said in process.stdout  # of another process
    second = committed()
    assert 3 <= first < second < 26

    again = run_python("-m", "sweep.launch", *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    found = re.search(r"26 trials, (\d+) already there, (\d+) to run", again.stdout)
    assert found is not None, again.stdout
    there, missing = int(found.group(1)), int(found.group(2))
    assert there >= second  # a worker may have finished its trial after the driver was gone
    assert missing == 26 - there > 0
    assert "Warning" not in again.stderr
    whole = launch(arguments[0], "--local", "--results", "whole")
    assert whole.exit_code == 0, whole.output
    assert numbers(tmp_path / "r") == numbers(tmp_path / "whole")


def test_cluster_that_does_not_answer_is_explained(run_python: Any, write_study: Write, document: Document) -> None:
    result = run_python("-m", "sweep.launch", write_study(document), "--address", "127.0.0.1:1")
    assert result.returncode == 2, result.stdout + result.stderr
    assert "--address 127.0.0.1:1: no Ray cluster answers" in result.stderr


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not ready():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("killed", "code", "told"),
    [
        ("raylet", 1, "stopped: no node of Ray is alive any more"),
        ("gcs_server", 1, "stopped: the head of Ray at 127.0.0.1:"),
        ("SIGTERM", 130, "interrupted: "),
    ],
)
def test_end_of_ray_or_of_the_driver_is_told_and_the_same_command_goes_on(
    killed: str,
    code: int,
    told: str,
    start_launch: Any,
    write_study: Write,
    document: Document,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, f"planted-{name}")
    document["methods"] = [{"method": "wanda", "sparsity": [number / 500 for number in range(1, 251)]}]
    process = start_launch([write_study(document), "--workers", "1", "--results", "r"])  # it cannot end in time
    results = Results(tmp_path / "r")
    wait_for(lambda: len(results.keys("trials")) >= 2, process)
    assert {ipaddress.ip_address(one).is_loopback for one in listening(process.pid)} == {True}
    if killed == "SIGTERM":
        process.terminate()
    else:
        os.kill(child(process.pid, killed), signal.SIGKILL)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == code, output
    assert told in output
    found = re.search(r"(\d+) of (\d+) trials are kept in r; the same command goes on", output)
    assert found is not None, output
    assert 1 <= int(found.group(1)) <= len(results.keys("trials")) < int(found.group(2))
    assert "Traceback" not in output
    assert results.read_text("lease.json") is None
    logs = [*Path(TEMPORARY, "ray").glob(f"session_*_{process.pid}/logs")]
    assert logs
    assert "planted-" not in output
    assert files_with(["planted-"], [tmp_path / "r", *logs]) == []
