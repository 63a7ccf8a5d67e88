from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from methods.base import compress_linear, get_method
from methods.inputs.collect import collect


@pytest.mark.parametrize("pattern", ["2:4", "4:8", "1:4"])
def test_every_group_keeps_exactly_n_of_m(problem, pattern):
    kept, group = map(int, pattern.split(":"))
    result = compress_linear(get_method("sparsegpt", pattern=pattern), problem.weight, problem.inputs).weight
    assert ((result != 0).reshape(24, -1, group).sum(-1) == kept).all()


def test_each_column_block_has_the_asked_share(problem):
    method = get_method("sparsegpt", sparsity=0.3, block_size=16)
    result = compress_linear(method, problem.weight, problem.inputs).weight
    for start in range(0, 64, 16):
        assert (result[:, start : start + 16] == 0).sum() == int(24 * 16 * 0.3) + 1


def test_uncorrelated_inputs_of_equal_size_give_blockwise_magnitude(problem, device):
    identity = torch.eye(64, device=device)[None]
    result = compress_linear(get_method("sparsegpt", block_size=32), problem.weight, identity).weight
    for start in range(0, 64, 32):
        part = problem.weight[:, start : start + 32]
        threshold = part.abs().flatten().sort().values[part.numel() // 2]
        assert torch.equal(result[:, start : start + 32], part.masked_fill(part.abs() <= threshold, 0))


@pytest.mark.parametrize("seed", range(3))
def test_output_error_is_below_wandas(make_problem, seed):
    problem = make_problem(seed=seed)
    ours, wanda = (
        compress_linear(get_method(name), problem.weight, problem.inputs).weight for name in ("sparsegpt", "wanda")
    )
    assert problem.output_error(ours) < 0.8 * problem.output_error(wanda)


def test_sum_of_column_errors_is_the_proxy_loss(problem, device):
    method = get_method("sparsegpt", sparsity=0.4)
    result = compress_linear(method, problem.weight, problem.inputs)
    hessian = collect(method, problem.inputs, problem.weight).hessian.double()
    delta = (problem.weight - result.compressed.weight).double()
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(64, device=device)
    assert float(result.compressed.loss) == pytest.approx((delta @ damped * delta).sum().item(), rel=1e-3)


def test_joint_quantization_keeps_zeros_and_grid(problem):
    result = compress_linear(get_method("sparsegpt", bits=4), problem.weight, problem.inputs)
    assert result.report.sparsity >= 0.5
    assert all(row.unique().numel() <= 16 for row in result.weight)
    assert result.report.bits == pytest.approx(4 + 36 / 64)


def test_masks_of_linears_solved_together_stay_apart(problem, make_problem):
    other = make_problem(rows=8, seed=3).weight * 100  # would win every comparison with the first
    method = get_method("sparsegpt")
    statistic = collect(method, problem.inputs, problem.weight)
    for result in method.compress_weights([problem.weight, other], statistic):
        assert float((result.weight == 0).double().mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("settings", [{"sparsity": 0.6}, {"pattern": "1:4"}], ids=str)
def test_zeros_of_an_earlier_step_are_chosen_first(problem, settings):
    method = get_method("sparsegpt", **settings)
    statistic = collect(method, problem.inputs, problem.weight)
    pruned = get_method("magnitude", pattern="2:4").compress_weight(problem.weight, None).weight == 0
    result = method.compress_weight(problem.weight.masked_fill(pruned, 0), statistic, pruned=pruned).weight
    assert (result[pruned] == 0).all()
    assert float((result == 0).double().mean()) == pytest.approx(method.share, abs=0.01)


def test_block_must_hold_whole_groups():
    with pytest.raises(SettingsError, match="block_size: expected a multiple of 8 for pattern 4:8, got 100"):
        get_method("sparsegpt", pattern="4:8", block_size=100)


def test_grid_settings_need_bits():
    with pytest.raises(SettingsError, match=r"sparsegpt.bits: required when scale_dtype is given"):
        get_method("sparsegpt", scale_dtype="float16")
    with pytest.raises(SettingsError, match=r"sparsegpt.bits: required when group_size or sym is given"):
        get_method("sparsegpt", group_size=32)


def test_groups_must_divide_the_inputs(make_problem):
    odd = make_problem(cols=62)
    with pytest.raises(SettingsError, match=r"groups of 4 \('2:4'\) do not divide the 62 inputs of weight"):
        compress_linear(get_method("sparsegpt", pattern="2:4"), odd.weight, odd.inputs)


def test_label_is_short():
    assert get_method("sparsegpt").label == "SparseGPT 50 %"
    assert get_method("sparsegpt", pattern="2:4").label == "SparseGPT 2:4"
    assert get_method("sparsegpt", sparsity=0.25, bits=4, group_size=32).label == "SparseGPT 25 % 4-bit g32"


@pytest.mark.parametrize(
    "settings", [{"pattern": "2:4"}, {"pattern": "2:4", "bits": 4}, {"sparsity": 0.0, "bits": 4}, {}]
)
def test_weights_that_an_earlier_step_pruned_stay_zero_whatever_this_one_prunes(problem, settings):
    generator = torch.Generator().manual_seed(0)
    pruned = (torch.rand(problem.weight.shape, generator=generator) < 0.75).to(problem.weight.device)
    method = get_method("sparsegpt", **settings)
    found = method.compress_weight(problem.weight, collect(method, problem.inputs, problem.weight), pruned=pruned)
    assert not found.weight[pruned].any()
    assert torch.isfinite(found.weight).all()
    assert found.weight.any()
