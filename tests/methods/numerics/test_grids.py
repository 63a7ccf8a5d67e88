from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from methods.numerics.grids import GridRule, check_group_size, divide, fit_grid, quantize, quantize_groups

SCALES = ["float32", "float16", "bfloat16"]


def test_values_lie_on_the_grid_and_within_half_a_step(problem):
    grid = fit_grid(problem.weight, GridRule(4))
    rounded = quantize(problem.weight, grid)
    steps = rounded / grid.scale[:, None]
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert ((rounded - problem.weight).abs() <= 0.5001 * grid.scale[:, None] * 1.5).all()
    assert all(row.unique().numel() <= 16 for row in rounded)


@pytest.mark.parametrize("sym", [False, True])
def test_zero_is_on_every_grid(problem, sym):
    weight = problem.weight.clone()
    weight[:, ::2] = 0
    assert (quantize(weight, fit_grid(weight, GridRule(3, sym=sym)))[:, ::2] == 0).all()


def test_grid_equals_a_plain_loop(problem):
    grid = fit_grid(problem.weight, GridRule(3))
    for row, scale, zero in zip(problem.weight, grid.scale, grid.zero, strict=True):
        low, high = min(row.min().item(), 0), max(row.max().item(), 0)
        assert scale.item() == pytest.approx((high - low) / 7, rel=1e-6)
        assert zero.item() == round(-low / ((high - low) / 7))


@pytest.mark.parametrize("side", [-1, 1], ids=["negative", "positive"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_symmetric_grids_reach_as_far_on_both_sides_also_where_all_weights_have_one_sign(problem, bits, side):
    weight = problem.weight.abs() * side
    grid = fit_grid(weight, GridRule(bits, sym=True))
    assert torch.equal(grid.scale, divide(2 * weight.abs().amax(1), 2**bits - 1))
    assert (grid.zero == 2 ** (bits - 1)).all()
    error = (quantize(weight, grid) - weight).abs()
    assert (error <= 0.5001 * grid.scale[:, None]).all()


def test_reference_rule_keeps_half_the_range_where_no_weight_is_negative(problem):
    positive = torch.tensor([[0.1, 0.4, 0.7, 1.0]])
    grid = fit_grid(positive, GridRule(4, sym=True, sym_rule="reference"))
    assert grid.scale.item() == pytest.approx(1 / 15)
    assert quantize(positive, grid).max().item() == pytest.approx(7 / 15)
    for weight in (problem.weight, -positive):  # wherever a weight is negative, the two rules are one
        usual, reference = (fit_grid(weight, GridRule(4, sym=True, sym_rule=rule)) for rule in ("usual", "reference"))
        assert torch.equal(usual.scale, reference.scale)
        assert torch.equal(usual.zero, reference.zero)


def test_clip_search_never_raises_the_error_it_minimises(problem):
    for dtype in SCALES:
        rules = (GridRule(3, mse=mse, scale_dtype=dtype) for mse in (False, True))
        plain, searched = (quantize(problem.weight, fit_grid(problem.weight, rule)) for rule in rules)
        errors = [(rounded - problem.weight).abs().pow(2.4).sum(1) for rounded in (plain, searched)]
        assert (errors[1] <= errors[0]).all()
        assert (errors[1] < errors[0]).any()


def test_groups_are_rounded_on_their_own(problem):
    whole = quantize_groups(problem.weight, GridRule(3), 16)
    for start in range(0, 64, 16):
        part = problem.weight[:, start : start + 16]
        assert torch.equal(whole[:, start : start + 16], quantize(part, fit_grid(part, GridRule(3))))


def test_stored_bits_count_the_scale_as_it_is_stored_and_the_zero():
    assert GridRule(4, scale_dtype="float16").stored_bits(4096, 128) == pytest.approx(4.15625)
    assert GridRule(4, scale_dtype="bfloat16", sym=True).stored_bits(4096, 128) == pytest.approx(4.125)
    assert GridRule(4).stored_bits(4096, 128) == pytest.approx(4 + 36 / 128)
    assert GridRule(4, sym=True).stored_bits(4096, 128) == pytest.approx(4.25)
    assert GridRule(4).stored_bits(4096, None) == pytest.approx(4 + 36 / 4096)


HARD = {
    "plain": lambda w: w,
    "zero": lambda w: w * 0,
    "positive": lambda w: w.abs(),
    "negative": lambda w: -w.abs(),
    "constant": lambda w: torch.full_like(w, 0.3),
    "one weight": lambda w: torch.where(torch.arange(w.shape[-1]) == 5, w, 0.0),
    "tiny": lambda w: w * 1e-6,
    "tinier than a 16-bit scale": lambda w: w * 1e-9,
    "smallest": lambda w: w * 1e-37,
    "huge": lambda w: w * 1e5,
}


@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("mse", [False, True])
@pytest.mark.parametrize("dtype", SCALES)
@pytest.mark.parametrize("case", HARD)
def test_codes_times_stored_scales_are_the_weights(problem, case, dtype, mse, sym):
    """A checkpoint of integer codes and scales in `dtype` holds the very weights, in the bits that it has."""
    weight = HARD[case](problem.weight.cpu())
    for bits in (2, 4, 8):
        grid = fit_grid(weight, GridRule(bits, sym=sym, mse=mse, scale_dtype=dtype))
        assert torch.equal(grid.scale.to(getattr(torch, dtype)).float(), grid.scale)
        assert (grid.scale > 0).all()
        assert torch.isfinite(grid.scale).all()
        assert torch.equal(grid.zero, grid.zero.round())
        assert 0 <= grid.zero.min() <= grid.zero.max() <= 2**bits - 1  # fits the zero point's bits
        rounded = quantize(weight, grid)
        codes = rounded / grid.scale[:, None] + grid.zero[:, None]
        whole = codes.round()
        assert (whole - codes).abs().max() <= 1e-3
        assert 0 <= whole.min() <= whole.max() <= 2**bits - 1
        assert torch.equal(grid.scale[:, None] * (whole - grid.zero[:, None]), rounded)


@pytest.mark.parametrize("case", HARD)
def test_a_16_bit_scale_costs_little_or_less_than_it_can_tell(problem, case):
    weight = HARD[case](problem.weight.cpu())
    exact = (quantize(weight, fit_grid(weight, GridRule(4))) - weight).norm()
    for dtype, smallest in (("float16", 2.0**-24), ("bfloat16", 0.0)):
        error = (quantize(weight, fit_grid(weight, GridRule(4, scale_dtype=dtype))) - weight).norm()
        assert error <= 1.05 * exact + 0.01 * weight.norm() or error <= smallest * weight.numel() ** 0.5 * 8


def test_scales_beyond_float16_make_no_finite_grid():
    weight = torch.tensor([[-1e6, 0.0, 1e6]])
    assert torch.isinf(fit_grid(weight, GridRule(4, scale_dtype="float16")).scale).all()
    assert torch.isfinite(quantize(weight, fit_grid(weight, GridRule(4, scale_dtype="bfloat16")))).all()


def test_group_size_that_does_not_divide_names_sizes_that_do():
    with pytest.raises(SettingsError, match=r"group_size: 32 does not divide the 176 inputs of .*down_proj.*16"):
        check_group_size(32, 176, "block 0 mlp.down_proj")


def test_ties_between_zero_points_are_common_in_16_bit_weights():
    """Why `divide` exists: multiplying by the inverse, as CUDA does with a plain number, moves some zero points."""
    weights = torch.randn(20_000, 32, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    grid = fit_grid(weights, GridRule(3))
    low, high = weights.amin(1).clamp(max=0), weights.amax(1).clamp(min=0)
    inverse = (high - low) * torch.tensor(1 / 7)
    moved = (torch.round(-low / inverse) != grid.zero).double().mean()
    assert torch.equal(divide(high - low, 7), (high - low) / 7)
    assert moved > 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", SCALES)
@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_grids_on_the_device_are_bit_for_bit_those_of_the_cpu(bits, sym, dtype):
    rule = GridRule(bits, sym=sym, scale_dtype=dtype)
    weights = torch.randn(20_000, 32, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    here, there = fit_grid(weights, rule), fit_grid(weights.cuda(), rule)
    assert torch.equal(here.scale, there.scale.cpu())
    assert torch.equal(here.zero, there.zero.cpu())
    assert torch.equal(quantize(weights, here), quantize(weights.cuda(), there).cpu())
