"""Products from bfloat16 halves beside float64, here on a processor (sums in float32) and on a CUDA device."""

from __future__ import annotations

import pytest
import torch

from methods.inputs.hessian import Hessian
from methods.inputs.norms import FeatureNorms
from methods.numerics.precision import add_product, halves_of, split_product


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_operands_are_multiplied_exactly_and_added(device, dtype):
    left, right = normal(48, 96).to(dtype), normal(96, 80, seed=1).to(dtype)
    whole = torch.full((64, 100), 3.0, device=device)
    add_product(whole[8:56, 16:96], left.to(device), right.T.contiguous().T.to(device))
    expected = 3 + left.double() @ right.double()
    assert (whole[8:56, 16:96].cpu() - expected).abs().max() <= 2e-5
    assert (whole[:8] == 3).all()
    assert (whole[:, 96:] == 3).all()


def test_halves_give_a_float32_product_to_1e_5(device):
    left, right = normal(64, 512), normal(512, 64, seed=1)
    found = split_product(left.to(device), halves_of(right.to(device))).cpu()
    size = left.double().abs() @ right.double().abs()
    assert ((found - left.double() @ right.double()).abs() <= 1e-5 * size).all()


def test_a_bfloat16_operand_loses_nothing():
    left, right = normal(16, 64).bfloat16(), normal(64, 16, seed=1).bfloat16()
    assert torch.allclose(split_product(left, halves_of(right)).double(), left.double() @ right.double(), atol=1e-5)


def test_output_error_from_halves_is_holds_where_the_change_avoids_the_strongest_direction(device):
    """One direction holds 99 % of the inputs' energy, and the change of the weight is orthogonal to it."""
    strong = normal(256)
    inputs = (normal(2048, 256, seed=1) + 10 * normal(2048, 1, seed=2) * strong).bfloat16()
    weight, delta = normal(96, 256, seed=3), normal(96, 256, seed=4)
    delta -= torch.outer(delta @ strong, strong) / strong.square().sum()
    statistic = Hessian(256, device)
    statistic.update(inputs.to(device), windows=1)
    statistic.in_halves = True
    error, size = statistic.output_error(delta.to(device), weight.to(device))
    exact = inputs.double()
    assert error.item() == pytest.approx(2 * (exact @ delta.T.double()).square().sum().item(), rel=2e-4)
    assert size.item() == pytest.approx(2 * (exact @ weight.T.double()).square().sum().item(), rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_output_error_of_a_sample_is_that_of_the_cpu():
    inputs, weight, delta = normal(64, 256).bfloat16(), normal(96, 256, seed=1), 0.1 * normal(96, 256, seed=2)
    found = []
    for device in ("cpu", "cuda"):
        statistic = FeatureNorms(256, device)
        statistic.update(inputs.to(device), windows=4)
        found.append([part.item() for part in statistic.output_error(delta.to(device), weight.to(device))])
    assert found[1] == pytest.approx(found[0], rel=1e-4)
