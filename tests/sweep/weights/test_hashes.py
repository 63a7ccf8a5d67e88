from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sweep.models import resolve_model
from sweep.weights.dense import DenseModel
from sweep.weights.hashes import ROW, checksum, weights_hash


@pytest.fixture(scope="module")
def dense(tiny_model: Path) -> DenseModel:
    return DenseModel(resolve_model(str(tiny_model), "models[0]"))


def test_hash_of_weights_sees_every_bit_and_the_place(dense: DenseModel) -> None:
    dense.restore()
    weight = dense.model.model.layers[1].mlp.up_proj.weight
    seen = {weights_hash(dense.model)}
    with torch.no_grad():
        weight[3, 5] = torch.nextafter(weight[3, 5], torch.tensor(9.0))  # the last bit of one number
        seen.add(weights_hash(dense.model))
        weight[[0, 1]] = weight[[1, 0]]  # the same numbers in other places
        seen.add(weights_hash(dense.model))
        weight[0, 0] = 0.0
        seen.add(weights_hash(dense.model))
        weight[0, 0] = -0.0
        seen.add(weights_hash(dense.model))
    dense.restore()
    assert len(seen) == 5
    assert weights_hash(dense.model) in seen


def multiplier(place: int, seed: int) -> int:
    """The splitmix64 finalizer of a place, made odd, in Python's whole numbers."""
    value = ((place + 1) * 0x9E3779B97F4A7C15 + seed * 0xD1B54A32D192ED03) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return (value ^ (value >> 31)) | 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "int8", "bool"])
def test_checksum_equals_its_plain_formula(dtype: str) -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(3, 30_001, generator=generator).mul(50).to(getattr(torch, dtype))
    size = tensor.element_size()
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    numbers = tensor.reshape(-1).view(kind).tolist()
    plain = sum(
        number * multiplier(place % ROW, 1) * multiplier(place // ROW, 2) for place, number in enumerate(numbers)
    )
    assert checksum(tensor) == plain % 2**64
