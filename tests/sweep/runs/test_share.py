"""How much of a GPU a worker takes: by the entry of its model, else by the model's size and the GPU's memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from calib.settings import SettingsError
from sweep.models import ModelRef, resolve_model
from sweep.runs.share import GB, gpu_memory, gpus_of, resource_of

H100, L4 = {"CPU": 16.0, "GPU": 1.0, "accelerator_type:H100": 1.0}, {"GPU": 1.0, "accelerator_type:L4": 1.0}


@pytest.fixture
def model() -> ModelRef:
    return resolve_model("reference-2m", "models[0]")


@pytest.mark.parametrize(
    ("parameters", "memory", "gpus"),
    [
        (2e6, 80, 0.125),
        (135e6, 80, 0.125),
        (1.4e9, 80, 0.25),
        (2e6, 24, 0.5),
        (2e6, 16, 1.0),
        (1.6e9, 80, 1.0),  # it keeps the GPU busy
        (70e9, 141, 1.0),
    ],
)
def test_small_models_take_a_share_of_a_gpu(model: ModelRef, parameters: float, memory: int, gpus: float) -> None:
    sized = replace(model, parameters=int(parameters), stored_dtype="bfloat16")
    assert gpus_of(sized, memory * GB) == gpus


def test_weights_in_float32_take_twice_as_much(model: ModelRef) -> None:
    sized = replace(model, parameters=700_000_000, stored_dtype="bfloat16")
    assert (gpus_of(sized, 100 * GB), gpus_of(replace(sized, dtype="float32"), 100 * GB)) == (0.125, 0.25)


def test_a_model_of_unknown_size_takes_a_gpu(model: ModelRef) -> None:
    assert gpus_of(replace(model, parameters=None), 80 * GB) == 1.0


def test_the_entry_of_a_model_goes_before_its_size() -> None:
    given = resolve_model({"model": "reference-2m", "gpus_per_worker": 2}, "models[0]")
    assert gpus_of(given, 80 * GB) == 2
    assert given.identity() == resolve_model("reference-2m", "models[0]").identity()


def test_a_share_that_no_worker_can_have_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"models\[0\]\.gpus_per_worker 1\.5: a worker has a share of one GPU"):
        resolve_model({"model": "reference-2m", "gpus_per_worker": 1.5}, "models[0]")
    with pytest.raises(SettingsError, match=r"models\[0\]\.gpus_per_worker 0: expected a share of one GPU from 0\.01"):
        resolve_model({"model": "reference-2m", "gpus_per_worker": 0}, "models[0]")


def test_the_smallest_gpu_counts_and_an_unknown_one_is_small() -> None:
    assert gpu_memory([{"CPU": 8.0}, H100]) == 80 * GB
    assert gpu_memory([H100, L4]) == 24 * GB
    assert gpu_memory([H100, {"GPU": 1.0}]) == 16 * GB
    assert gpu_memory([]) == 16 * GB


def test_a_gpu_is_found_by_the_name_that_its_driver_gives() -> None:
    assert resource_of("NVIDIA H100 80GB HBM3") in H100
    assert resource_of("Tesla T4") == "accelerator_type:T4"
    assert gpu_memory([{"GPU": 1.0, resource_of("NVIDIA GeForce RTX 5090"): 1.0}]) == 16 * GB
