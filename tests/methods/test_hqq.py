from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from calib.settings import SettingsError
from methods.base import CompressionError, compress_linear, get_method, parse_method
from methods.hqq import half_quadratic

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "hqq" / "half_quadratic.npz"


@pytest.mark.parametrize(("bits", "size"), [(1, 32), (2, 32), (3, 96), (4, 32), (8, 96)])
def test_scales_zero_points_and_codes_are_those_of_the_original(bits, size):
    with np.load(GOLDEN) as arrays:
        golden = {name: torch.from_numpy(arrays[name]) for name in arrays}
    groups = golden["weight"].reshape(-1, size)
    steps, zero = half_quadratic(groups, 2**bits - 1, 20)
    torch.testing.assert_close(1 / steps, golden[f"b{bits}_g{size}.scale"], rtol=1e-6, atol=0)
    torch.testing.assert_close(zero, golden[f"b{bits}_g{size}.zero"], rtol=1e-4, atol=1e-4)
    codes = torch.round(groups * steps + zero).clamp(0, 2**bits - 1)
    assert (codes == golden[f"b{bits}_g{size}.codes"]).float().mean() > 0.995


def test_the_solver_lowers_the_error_that_it_looks_at(problem):
    def error(iterations):
        method = get_method("hqq", bits=2, group_size=32, iterations=iterations)
        return float((compress_linear(method, problem.weight).weight - problem.weight).abs().pow(0.7).sum())

    assert error(20) < error(0)


def test_weights_are_codes_times_scales_of_16_bits(problem):
    size = 32
    result = compress_linear(get_method("hqq", bits=3, group_size=size), problem.weight)
    groups = problem.weight.reshape(-1, size)
    steps, zero = half_quadratic(groups, 7, 20)
    codes = torch.round(groups * steps + zero).clamp(0, 7)
    plain = (codes - zero.half().float()) * (1 / steps).half().float()
    assert torch.equal(result.weight, plain.reshape(result.weight.shape))
    assert result.report.bits == 3 + 2 * 16 / size


def test_error_falls_with_bits(problem):
    errors = [compress_linear(get_method("hqq", bits=b), problem.weight).report.relative_error for b in range(1, 9)]
    assert errors == sorted(errors, reverse=True)


def test_after_pruning_it_is_refused_since_zero_is_no_level():
    with pytest.raises(SettingsError, match=r"'hqq' after 'wanda' would undo the pruning"):
        parse_method(["wanda", "hqq"], "methods[0]")


def test_groups_must_divide_the_inputs():
    with pytest.raises(SettingsError, match="group_size: 64 does not divide the 96 inputs"):
        compress_linear(get_method("hqq"), torch.zeros(4, 96))


def test_label_names_bits_group_and_rounds():
    assert get_method("hqq").label == "HQQ 4-bit g64"
    assert get_method("hqq", bits=3, group_size=None, iterations=5).label == "HQQ 3-bit 5 rounds"


def test_zero_points_beyond_float16_are_named_with_a_type_that_holds_them(problem):
    problem.weight[3] = 10 + torch.linspace(0, 1e-3 * problem.weight.shape[1] / 32, problem.weight.shape[1])
    with pytest.raises(CompressionError, match=r"nearly equal .* up to 1\.\d\de\+05, and float16 ends at 65,504: use"):
        compress_linear(get_method("hqq", group_size=32), problem.weight)
    for name in ("bfloat16", "float32"):
        report = compress_linear(get_method("hqq", group_size=32, scale_dtype=name), problem.weight).report
        assert report.relative_error < 0.01
