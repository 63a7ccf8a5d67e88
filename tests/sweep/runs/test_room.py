"""How many workers a list of nodes has room for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from calib.settings import SettingsError
from sweep.models import resolve_model
from sweep.runs.room import Room, worker_needs
from sweep.runs.runner import RunOptions

HEAD = {"CPU": 8.0}
GPU = {"CPU": 16.0, "GPU": 2.0}


def test_workers_on_cpus_leave_one_for_rebuilding_on_a_cluster() -> None:
    options = RunOptions(address="auto", gpus_per_worker=0)
    room = Room([HEAD, GPU], options)
    assert (room.device, room.workers) == ("cpu", 8 + 16 - 1)
    assert Room([HEAD], options).workers == 8
    assert Room([HEAD], options, lost=1).workers == 7


def test_workers_on_gpus_hold_no_cpu() -> None:
    assert worker_needs("cuda", 0.5) == {"num_cpus": 0, "num_gpus": 0.5}
    assert worker_needs("cpu", 1.0) == {"num_cpus": 1}


@pytest.mark.parametrize(("share", "workers"), [(0.1, 40), (0.5, 8), (1.0, 4), (2.0, 2), (4.0, 0)])
def test_share_of_a_gpu_decides_how_many_workers_fit_on_each_node(share: float, workers: int) -> None:
    room = Room([HEAD, GPU, GPU], RunOptions(gpus_per_worker=share), kinds=(share,))
    assert (room.device, room.workers) == ("cuda", workers)


def test_gpus_are_waited_for_on_a_cluster_and_not_here() -> None:
    assert Room([HEAD], RunOptions(address="auto")).device == "cuda"
    assert Room([HEAD], RunOptions()).device == "cpu"


def test_cluster_without_room_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"--workers 1: there are 0 GPUs and 8 CPUs, room for 0 workers of 1 GPUs"):
        Room([HEAD], RunOptions(address="auto")).shortage()


def test_machine_without_room_for_all_that_are_asked_for_is_refused() -> None:
    with pytest.raises(SettingsError, match="--workers 9: there are 0 GPUs and 8 CPUs, room for 8 workers; ask for fe"):
        Room([HEAD], RunOptions(workers=9)).shortage()


def test_cluster_with_room_for_some_starts_with_them() -> None:
    room = Room([HEAD, GPU], RunOptions(address="auto", workers=5))
    assert room.shortage() == (
        "the cluster has 2 GPUs and 24 CPUs, room for 2 workers of 1 GPUs each; the other 3 start when nodes join"
    )
    assert Room([HEAD, GPU], RunOptions(address="auto", workers=2)).shortage() is None


@pytest.mark.parametrize(("gpus", "node"), [(1.0, "1 GPU"), (0.5, "0.5 GPU"), (0.0, "a CPU")])
def test_wait_for_the_first_node_of_an_empty_cluster_says_what_it_waits_for(gpus: float, node: str) -> None:
    room = Room([], RunOptions(address="auto", gpus_per_worker=gpus), kinds=(gpus or 1.0,))
    assert room.workers == 0
    assert room.wait_line(10.0) == (
        f"waiting up to 10 minutes for a node with {node} to join (--gpus-per-worker 0 runs on CPUs)"
    )


def test_workers_start_ahead_where_they_take_no_cpu_from_the_preparation() -> None:
    assert Room([GPU], RunOptions()).spare(2)
    here = Room([{"CPU": 8.0}], RunOptions())
    assert here.spare(4)
    assert not here.spare(5)


H100 = {"CPU": 16.0, "GPU": 2.0, "accelerator_type:H100": 1.0}


def test_models_choose_the_kinds_of_their_workers() -> None:
    small = resolve_model("reference-2m", "models[0]")
    large = replace(small, name="large", parameters=7_000_000_000)
    assert Room([HEAD, H100], RunOptions()).kind_by_model([small, large]) == {small: 0.125, large: 1.0}
    assert Room([H100], RunOptions(workers=2)).kind_by_model([small, large]) == {small: 1.0, large: 1.0}
    assert Room([H100], RunOptions(gpus_per_worker=0.5)).kind_by_model([small, large]) == {small: 0.5, large: 0.5}


def test_no_more_workers_share_a_gpu_than_its_machine_has_cpus() -> None:
    few = {"CPU": 4.0, "GPU": 1.0}
    assert Room([H100, few], RunOptions(), kinds=(0.125,)).workers == 16 + 4
    assert Room([few], RunOptions(gpus_per_worker=0.125), kinds=(0.125,)).workers == 8  # as asked for
    assert Room([few], RunOptions(), kinds=(0.125, 1.0)).workers == 8  # places, of which a worker may take all


def test_a_cluster_of_one_cpu_has_room_for_a_worker() -> None:
    options = RunOptions(address="auto", gpus_per_worker=0)
    assert Room([{"node": 1.0}, {"CPU": 1.0}], options).workers == 1
    assert Room([{"node": 1.0}], options).workers == 0
