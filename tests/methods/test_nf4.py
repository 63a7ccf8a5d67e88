from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from methods.base import compress_linear, get_method
from methods.numerics.fourbit import FourBitRule, block_weight, largest_values, quantize_blocks


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
def test_a_weight_becomes_codes_times_scales(kind, double, problem):
    method = get_method("nf4", quant_type=kind, double_quant=double)
    result = compress_linear(method, problem.weight)
    codes, fitted = quantize_blocks(problem.weight, FourBitRule(kind, 64, double))
    assert torch.equal(result.weight, block_weight(codes, largest_values(fitted), method.rule, problem.weight.shape))
    assert result.report.bits == method.rule.stored_bits(problem.weight.numel())
    assert torch.equal(result.compressed.fitted.largest, fitted.largest)


def test_normal_weights_are_closer_to_nf4_than_to_fp4_and_to_smaller_blocks(problem):
    def error(**settings):
        return compress_linear(get_method("nf4", **settings), problem.weight).report.relative_error

    assert error() < error(quant_type="fp4")
    assert error(block_size=32) < error() < error(block_size=1024)
    assert error() < error(double_quant=True) < 1.1 * error()


def test_it_compresses_to_its_own_weights_again(problem):
    once = compress_linear(get_method("nf4"), problem.weight.half()).weight
    assert torch.equal(compress_linear(get_method("nf4"), once).weight, once)


def test_block_sizes_are_those_that_loaders_know():
    with pytest.raises(SettingsError, match=r"nf4\.block_size"):
        get_method("nf4", block_size=48)


def test_label_names_levels_blocks_and_double_quantization():
    assert get_method("nf4").label == "NF4 g64"
    assert get_method("nf4", quant_type="fp4", block_size=128, double_quant=True).label == "FP4 g128 double"
