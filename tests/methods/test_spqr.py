from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from methods.base import compress_linear, get_method
from methods.inputs.collect import collect
from methods.numerics.solvers import spqr_columns
from methods.numerics.spqr import outlier_thresholds


@pytest.fixture
def problem(make_problem):
    return make_problem(rows=32, cols=64)


@pytest.mark.parametrize("name", ["spqr_b3", "spqr_b4", "spqr_b4_identity"])
def test_outliers_equal_the_originals(load_golden, name):
    golden = load_golden(name)
    method = get_method("spqr", **golden.settings)
    statistic = collect(method, golden.problem.inputs, golden.problem.weight)
    factor = statistic.factor(method.factor_settings)
    columns = golden.problem.weight.T.contiguous()
    columns = columns if factor.order is None else columns[factor.order]
    threshold = outlier_thresholds(columns, factor.upper.diagonal(), [columns.shape[1]], method.outlier_threshold)
    _, outliers, *_ = spqr_columns(columns, factor.upper, method.rule, method.block_size, threshold=threshold)
    assert (torch.from_numpy(golden.arrays["outliers"]) == outliers.T.cpu()).double().mean() >= 0.999


def test_without_outliers_and_bilevel_it_is_gptq_with_real_zero_points(problem):
    """The loss identity holds, and the result is close to GPTQ with groups of the same size and fresh statistics."""
    plain = {"scale_bits": None, "zero_bits": None, "outlier_threshold": None, "round_zero": True, "percdamp": 0.01}
    spqr = get_method("spqr", permutation="identity", **plain)
    ours = compress_linear(spqr, problem.weight, problem.inputs)
    # every group of these weights spans zero, so both dialects fit the same grid
    groups = problem.weight.reshape(32, -1, 16)
    assert (groups.amin(-1) < 0).all()
    assert (groups.amax(-1) > 0).all()
    gptq = get_method("gptq", group_size=16, fresh_group_stats=True, act_order=False)
    theirs = compress_linear(gptq, problem.weight, problem.inputs)
    assert torch.isclose(ours.weight, theirs.weight, rtol=1e-4, atol=1e-6).double().mean() > 0.97
    assert ours.report.outlier_share == 0


@pytest.mark.parametrize("bits", [3, 4])
def test_share_of_outliers_falls_with_the_threshold_and_error_with_the_share(problem, bits):
    shares, errors = [], []
    for threshold in (0.02, 0.1, 0.4, 2.0):
        method = get_method("spqr", bits=bits, outlier_threshold=threshold)
        report = compress_linear(method, problem.weight, problem.inputs).report
        shares.append(report.outlier_share)
        errors.append(report.relative_error)
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]
    assert errors[0] < errors[-1]


def test_effective_bits_follow_the_papers_formula():
    for dtype, numbers in (("float16", 2 * 2 * 16), ("float32", 2 * 2 * 32)):
        three, four = (get_method("spqr", bits=bits, scale_dtype=dtype) for bits in (3, 4))
        assert three.rule.stored_bits(4096, 0.0) == pytest.approx(3 + 6 / 16 + numbers / 256)
        assert four.rule.stored_bits(4096, 0.0) == pytest.approx(4 + 6 / 16 + numbers / 256)
        assert three.rule.stored_bits(4096, 0.01) == pytest.approx(three.rule.stored_bits(4096, 0.0) + 0.32)
    assert get_method("spqr", bits=3, scale_dtype="float16").rule.stored_bits(4096, 0.0) == pytest.approx(3.625)


def test_outliers_keep_their_value_and_cost_no_error(problem):
    method = get_method("spqr", bits=2, outlier_threshold=0.05)
    result = compress_linear(method, problem.weight, problem.inputs)
    assert result.report.outlier_share > 0.01
    plain = compress_linear(get_method("spqr", bits=2, outlier_threshold=None), problem.weight, problem.inputs)
    assert result.report.relative_error < plain.report.relative_error


def test_sum_of_column_errors_is_the_proxy_loss(problem, device):
    method = get_method("spqr", bits=3)
    result = compress_linear(method, problem.weight, problem.inputs)
    hessian = collect(method, problem.inputs, problem.weight).hessian.double()
    delta = (problem.weight - result.compressed.weight).double()
    damped = hessian + hessian.diagonal().mean() * torch.eye(64, device=device)
    assert float(result.compressed.loss) == pytest.approx((delta @ damped * delta).sum().item(), rel=1e-3)


def test_block_size_does_not_change_the_result(problem):
    results = [
        compress_linear(get_method("spqr", block_size=size), problem.weight, problem.inputs).weight
        for size in (1, 16, 48, 128)
    ]
    for other in results[1:]:
        assert torch.isclose(results[0], other, rtol=1e-4, atol=1e-6).double().mean() > 0.99


def test_zeros_of_an_earlier_step_stay(problem):
    method = get_method("spqr")
    pruned = torch.rand(32, 64, generator=torch.Generator().manual_seed(0)).to(problem.weight.device) < 0.5
    statistic = collect(method, problem.inputs, problem.weight)
    result = method.compress_weight(problem.weight.masked_fill(pruned, 0), statistic, pruned=pruned)
    assert (result.weight[pruned] == 0).all()


def test_rows_that_do_not_fill_blocks_are_refused(make_problem):
    odd = make_problem(rows=24)
    with pytest.raises(SettingsError, match="statistics_group: 16 does not divide the 24 outputs of weight"):
        compress_linear(get_method("spqr"), odd.weight, odd.inputs)
    plain = get_method("spqr", scale_bits=None, zero_bits=None)
    assert compress_linear(plain, odd.weight, odd.inputs).report.relative_error < 0.05


def test_constant_groups_and_dead_inputs_stay_finite(problem):
    problem.weight[:, :16] = 0.25
    problem.weight[5] = 0
    problem.inputs[:, :, 20] = 0
    result = compress_linear(get_method("spqr"), problem.weight, problem.inputs)
    assert torch.isfinite(result.weight).all()
    assert result.report.dead_columns == 1


def test_pairs_of_weights_on_rounded_grids_are_refused(problem):
    with pytest.raises(SettingsError, match=r"group_size: 2 is too small for rounded grids; take at least 4"):
        get_method("spqr", group_size=2)
    plain = get_method("spqr", group_size=2, scale_bits=None, zero_bits=None)
    assert compress_linear(plain, problem.weight, problem.inputs).report.relative_error < 1e-3


@pytest.mark.parametrize("settings", [{}, {"scale_bits": None}, {"zero_bits": None}, {"round_zero": True}], ids=str)
def test_16_bit_statistics_change_little_beside_the_bits_they_save(problem, settings, make_problem):
    problem = make_problem(rows=32)
    exact, stored = (
        compress_linear(get_method("spqr", bits=3, scale_dtype=dtype, **settings), problem.weight, problem.inputs)
        for dtype in ("float32", "float16")
    )
    assert not torch.equal(exact.weight, stored.weight)
    assert stored.report.relative_error == pytest.approx(exact.report.relative_error, rel=0.1)
    assert stored.report.bits < exact.report.bits - 0.1


def test_tiny_constant_and_zero_weights_stay_finite_on_16_bit_grids(make_problem):
    problem = make_problem(rows=32)
    problem.weight[:16] = problem.weight[:16] * 1e-7
    problem.weight[16:20, :16], problem.weight[20] = 0.125, 0
    problem.inputs[:, :, 3] = 0
    for settings in ({}, {"scale_bits": None, "zero_bits": None}, {"outlier_threshold": None}):
        method = get_method("spqr", bits=3, scale_dtype="float16", **settings)
        assert torch.isfinite(compress_linear(method, problem.weight, problem.inputs).weight).all()
