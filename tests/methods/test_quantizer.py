from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from methods.quantizer import check_group_size, divide, fit_grid, grid_bits, quantize, quantize_groups


def test_values_lie_on_the_grid_and_within_half_a_step(problem):
    grid = fit_grid(problem.weight, 4)
    rounded = quantize(problem.weight, grid)
    steps = rounded / grid.scale[:, None]
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert ((rounded - problem.weight).abs() <= 0.5001 * grid.scale[:, None] * 1.5).all()
    assert all(row.unique().numel() <= 16 for row in rounded)


@pytest.mark.parametrize("sym", [False, True])
def test_zero_is_on_every_grid(problem, sym):
    weight = problem.weight.clone()
    weight[:, ::2] = 0
    assert (quantize(weight, fit_grid(weight, 3, sym=sym))[:, ::2] == 0).all()


def test_grid_equals_a_plain_loop(problem):
    grid = fit_grid(problem.weight, 3)
    for row, scale, zero in zip(problem.weight, grid.scale, grid.zero, strict=True):
        low, high = min(row.min().item(), 0), max(row.max().item(), 0)
        assert scale.item() == pytest.approx((high - low) / 7, rel=1e-6)
        assert zero.item() == round(-low / ((high - low) / 7))


def test_all_zero_rows_and_constant_groups_stay_finite():
    weight = torch.zeros(2, 8)
    weight[1] = 0.3
    rounded = quantize(weight, fit_grid(weight, 4))
    assert (rounded[0] == 0).all()
    assert torch.allclose(rounded[1], torch.full((8,), 0.3))


def test_symmetric_all_positive_row_keeps_zero_at_the_bottom():
    weight = torch.tensor([[0.1, 0.4, 0.7, 1.0]])
    grid = fit_grid(weight, 4, sym=True)
    assert grid.scale.item() == pytest.approx(1 / 15)
    assert grid.zero.item() == 8


def test_clip_search_never_raises_the_error_it_minimises(problem):
    plain, searched = (quantize(problem.weight, fit_grid(problem.weight, 3, mse=mse)) for mse in (False, True))
    errors = [(rounded - problem.weight).abs().pow(2.4).sum(1) for rounded in (plain, searched)]
    assert (errors[1] <= errors[0]).all()
    assert (errors[1] < errors[0]).any()


def test_groups_are_rounded_on_their_own(problem):
    whole = quantize_groups(problem.weight, 3, 16, sym=False, mse=False)
    for start in range(0, 64, 16):
        part = problem.weight[:, start : start + 16]
        assert torch.equal(whole[:, start : start + 16], quantize(part, fit_grid(part, 3)))


def test_stored_bits_count_scale_and_zero():
    assert grid_bits(4, 4096, 128, sym=False) == pytest.approx(4.15625)
    assert grid_bits(4, 4096, 128, sym=True) == pytest.approx(4.125)
    assert grid_bits(4, 4096, None, sym=False) == pytest.approx(4 + 20 / 4096)


def test_group_size_that_does_not_divide_names_sizes_that_do():
    with pytest.raises(SettingsError, match=r"group_size: 32 does not divide the 176 inputs of .*down_proj.*16"):
        check_group_size(32, 176, "block 0 mlp.down_proj")


def test_ties_between_zero_points_are_common_in_16_bit_weights():
    """Why `divide` exists: multiplying by the inverse, as CUDA does with a plain number, moves some zero points."""
    weights = torch.randn(20_000, 32, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    grid = fit_grid(weights, 3)
    low, high = weights.amin(1).clamp(max=0), weights.amax(1).clamp(min=0)
    inverse = (high - low) * torch.tensor(1 / 7)
    moved = (torch.round(-low / inverse) != grid.zero).double().mean()
    assert torch.equal(divide(high - low, 7), (high - low) / 7)
    assert moved > 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_grids_on_the_device_are_bit_for_bit_those_of_the_cpu(bits, sym):
    weights = torch.randn(20_000, 32, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    here, there = fit_grid(weights, bits, sym=sym), fit_grid(weights.cuda(), bits, sym=sym)
    assert torch.equal(here.scale, there.scale.cpu())
    assert torch.equal(here.zero, there.zero.cpu())
    assert torch.equal(quantize(weights, here), quantize(weights.cuda(), there).cpu())
