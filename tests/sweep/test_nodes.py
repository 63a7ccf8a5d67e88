"""A cluster of several nodes on this machine loses nodes, the data that they held, and its head."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweep.remote import RayRunner
from sweep.results import Results
from sweep.runs.runner import RunOptions
from tests.sweep.conftest import launch_environment

pytestmark = [pytest.mark.cluster, pytest.mark.ray]

OBJECTS = {"RAY_max_direct_call_object_size": "0"}  # what tasks return lies on their nodes, however small it is


class Nodes:
    """Nodes of a Ray of their own; the head has no CPU, so that nothing is made there."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=2)

    def lose(self, node: Any) -> None:
        """As if the power went: its processes are killed at once, by their ids."""
        for kind in list(node.all_processes):
            for found in node.all_processes[kind]:
                os.kill(found.process.pid, signal.SIGKILL)

    def lose_head(self) -> None:
        """As a driver on another machine sees it. (One on the head's machine is ended by Ray with its raylet.)"""
        for found in self.cluster.head_node.all_processes["gcs_server"]:
            os.kill(found.process.pid, signal.SIGKILL)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Nodes]]:
    for name, value in {**launch_environment(), **OBJECTS}.items():
        monkeypatch.setenv(name, value)
    started: list[Nodes] = []

    def start() -> Nodes:
        started.append(Nodes())
        return started[-1]

    yield start
    for one in started:
        one.cluster.shutdown()


def kept(root: Path) -> list[Any]:
    """What must not depend on what was lost on the way."""
    results = Results(root)
    columns = ("trial_id", "status", "weights_hash", "calibration_hash")
    return [results.read("trials").select(columns).rows(), results.read("metrics").rows()]


def until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not ready():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        time.sleep(0.05)


@pytest.fixture
def study(document: dict[str, Any], write_study: Callable[[dict[str, Any]], str]) -> str:
    document["methods"] = [{"method": "wanda", "sparsity": [number / 20 for number in range(1, 16)]}]
    document["calibration"]["sets"] = 2
    return write_study(document)


def device_given() -> str:
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_node_with_a_gpu_and_no_cpu_runs_workers_and_what_needs_a_device(
    nodes: Callable[[], Nodes], tmp_path: Path
) -> None:
    import ray

    there = nodes()
    there.cluster.add_node(num_cpus=0, num_gpus=1)
    runner = RayRunner(str(tmp_path), {}, RunOptions(address=there.address))
    try:
        assert runner.start() == "cuda"
        (given,) = runner.task(device_given, returns=1, on_device=True)
        assert ray.get(given, timeout=120) == "0"
        (started,) = runner.hire(1)
        try:
            assert ray.get(started, timeout=120) > 0
        except ray.exceptions.RayActorError as error:  # it was placed, but the GPU is not there
            assert "torch sees none" in str(error)
    finally:
        runner.close()


def test_nodes_are_lost_with_the_sets_that_they_hold(
    nodes: Callable[[], Nodes], study: str, start_launch: Any, launch: Any, tmp_path: Path
) -> None:
    there = nodes()
    first, second = there.add(), there.add()
    process = start_launch([study, "--address", there.address, "--gpus-per-worker", "0", "--results", "r"])
    results = Results(tmp_path / "r")
    until(lambda: len(results.keys("trials")) >= 2, process)
    there.lose(first)
    there.add()
    seen = len(results.keys("trials"))
    until(lambda: len(results.keys("trials")) >= seen + 4, process)
    there.lose(second)  # now nothing is left that the first nodes held
    there.add()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "Traceback" not in output
    ids = results.read("trials")["trial_id"]
    assert ids.n_unique() == len(ids) == 61
    whole = launch(study, "--local", "--results", "whole")
    assert whole.exit_code == 0, whole.output
    assert kept(tmp_path / "r") == kept(tmp_path / "whole")


def test_head_is_lost_and_another_one_goes_on(
    nodes: Callable[[], Nodes], study: str, start_launch: Any, launch: Any, tmp_path: Path
) -> None:
    there = nodes()
    there.add()
    command = [study, "--gpus-per-worker", "0", "--results", "r", "--address"]
    process = start_launch([*command, there.address])
    results = Results(tmp_path / "r")
    until(lambda: len(results.keys("trials")) >= 2, process)
    there.lose_head()
    output, _ = process.communicate()
    assert process.returncode == 1, output
    assert "stopped: the head of Ray " in output
    found = re.search(r"(\d+) of 61 trials are kept in r; the same command goes on", output)
    assert found is not None, output
    assert "Traceback" not in output
    assert results.read_text("lease.json") is None
    again = nodes()
    again.add()
    done = subprocess.run(
        [sys.executable, "-m", "sweep.launch", *command, again.address],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.search(r"61 trials, (\d+) already there", done.stdout)
    assert said is not None, done.stdout
    assert int(said.group(1)) >= int(found.group(1)) >= 1
    whole = launch(study, "--local", "--results", "whole")
    assert whole.exit_code == 0, whole.output
    assert kept(tmp_path / "r") == kept(tmp_path / "whole")
