from __future__ import annotations

import pytest
import torch

from methods.numerics.spqr import (
    SpQRRule,
    fit_group,
    leave_one_out_gain,
    outlier_thresholds,
    real_grid,
    round_statistics,
    round_to,
)


def test_leave_one_out_gain_equals_refitting_every_candidate(problem):
    group, diagonal = problem.weight.T[:16].clone(), torch.rand(16).to(problem.weight.device) + 0.5
    group[3] = group[7] = group.amin(0)  # a tie for the smallest: leaving out one of them changes no grid
    gain = leave_one_out_gain(group, diagonal, 7)

    def error(rows):
        part = group[rows]
        rounded = round_to(part, real_grid(part.amin(0), part.amax(0), 7))
        return ((rounded - part) / diagonal[rows, None]).square().sum(0)

    everything = list(range(16))
    for k in everything:
        expected = error(everything) - error([j for j in everything if j != k])
        assert torch.allclose(gain[k], expected, rtol=1e-3, atol=1e-6)


def test_thresholds_are_those_of_each_stacked_matrix(problem):
    columns = problem.weight.T
    diagonal = torch.rand(64, device=columns.device) + 0.5
    found = outlier_thresholds(columns, diagonal, [8, 16], 0.2)
    for rows in (slice(0, 8), slice(8, 24)):
        units = [columns[j, rows].var() / diagonal[j] ** 2 for j in range(64)]
        assert torch.allclose(found[rows], 0.2 * torch.stack(units).mean(), rtol=1e-5)


def test_rounded_statistics_keep_the_ends_of_their_blocks():
    values = torch.rand(32, generator=torch.Generator().manual_seed(0))
    found = round_statistics(values, 3, 16, "float32").values()
    for block, rounded in zip(values.split(16), found.split(16), strict=True):
        step = (block.max() - block.min()) / 7
        assert (rounded - block).abs().max() <= step / 2 * (1 + 1e-4)
        assert len(rounded.unique()) <= 8


def test_a_likely_outlier_does_not_shape_the_grid():
    group = torch.linspace(-1, 1, 16)[:, None].repeat(1, 2)
    group[5, 1] = 40.0
    plain = SpQRRule(4, 16, scale_bits=None, zero_bits=None)
    threshold = torch.full((2,), 3.0)  # above the error that the outlier makes for any other weight
    grid = fit_group(plain, group, torch.ones(16), threshold)
    assert grid.scale[1] == pytest.approx(grid.scale[0].item(), rel=1e-3)
    assert fit_group(plain, group, torch.ones(16), None).scale[1] > 10 * grid.scale[1]


@pytest.mark.parametrize(("bits", "zero_bits", "expected"), [(3, 3, None), (4, 3, 3), (4, None, None)])
def test_integer_zero_points_are_quantized_only_where_that_saves_bits(bits, zero_bits, expected):
    assert SpQRRule(bits, 16, zero_bits=zero_bits, round_zero=True).quantized_zero_bits == expected
    assert SpQRRule(bits, 16, zero_bits=zero_bits).quantized_zero_bits == zero_bits


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shift", [0.0, 1e-7, 1.0, 300.0])
@pytest.mark.parametrize("spread", [0.0, 1e-9, 1e-6, 1e-3, 1.0, 1e3])
def test_numbers_of_a_16_bit_grid_are_held_by_its_type_and_reach_over_its_values(dtype, shift, spread):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(16, 40, generator=generator) * spread + shift
    grid = real_grid(values.amin(0), values.amax(0), 7, dtype)
    for number in (grid.scale, grid.zero):
        assert torch.isfinite(number).all()
        assert torch.equal(number.to(getattr(torch, dtype)).float(), number)
    step = (values.amax(0) - values.amin(0)) / 7
    of_the_type = values.abs().amax(0) * torch.finfo(getattr(torch, dtype)).eps + 7 * 2.0**-24
    constant = values.amax(0) == values.amin(0)  # as published, from −1 to 1
    error = (round_to(values, grid) - values).abs().amax(0)
    assert (error <= 0.51 * step + 8 * step * torch.finfo(getattr(torch, dtype)).eps + of_the_type)[~constant].all()
