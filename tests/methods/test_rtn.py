from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from methods.base import compress_linear, get_method
from methods.numerics.grids import GridRule, fit_grid, quantize


def test_every_weight_takes_its_nearest_level(problem):
    result = compress_linear(get_method("rtn", bits=3), problem.weight)
    assert torch.equal(result.weight, quantize(problem.weight, fit_grid(problem.weight, GridRule(3))))
    assert result.report.bits == 3 + (32 + 3) / 64


def test_error_falls_with_bits_and_with_smaller_groups(problem):
    def error(**settings):
        return compress_linear(get_method("rtn", **settings), problem.weight).report.relative_error

    errors = [error(bits=bits) for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)
    assert error(bits=3, group_size=16) < error(bits=3, group_size=32) < error(bits=3)


def test_zeros_of_an_earlier_step_stay(problem):
    pruned = problem.weight > 0.05
    weight = problem.weight.masked_fill(pruned, 0)
    compressed = get_method("rtn", sym=True).compress_weight(weight, None, pruned=pruned)
    assert (compressed.weight[pruned] == 0).all()
    assert not torch.signbit(compressed.weight[compressed.weight == 0]).any()


@pytest.mark.parametrize("bits", [1, 9, 0, -4])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(SettingsError, match=f"rtn.bits: expected 2 to 8, got {bits}"):
        get_method("rtn", bits=bits)


def test_label_names_bits_group_and_dialect():
    assert get_method("rtn", bits=4, group_size=128).label == "RTN 4-bit g128"
    assert get_method("rtn", bits=3, sym=True, mse=True).label == "RTN 3-bit sym mse"
    assert get_method("rtn", sym=True, sym_rule="reference").label == "RTN 4-bit sym-reference"
