from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from methods.base import compress_linear, get_method
from methods.inputs.collect import collect
from methods.numerics.codes import NotOnGridError, find_codes
from methods.numerics.grids import GridRule, fit_grid, quantize

PUBLISHED = {"act_order": False, "static_groups": False}  # the reference code's own defaults


def one_column_at_a_time(problem, rule, group_size, act_order, static, fresh):
    """GPTQ in float64 without blocks: the inverse Hessian is updated after every column."""
    weight, cols = problem.weight.double(), problem.weight.shape[1]
    flat = problem.inputs.reshape(-1, cols).double()
    hessian = 2 / problem.inputs.shape[0] * flat.T @ flat
    order = (
        torch.argsort(hessian.diagonal(), descending=True, stable=True)
        if act_order
        else torch.arange(cols, device=weight.device)
    )
    size = group_size or cols
    static_grids = [fit_grid(weight[:, s : s + size], rule) for s in range(0, cols, size)]
    weight, hessian = weight[:, order].clone(), hessian[order][:, order]
    outer = weight.clone()  # one block as wide as the matrix: stale groups see the dense weights
    inverse = torch.linalg.inv(hessian + 0.01 * hessian.diagonal().mean() * torch.eye(cols, device=weight.device))
    result = torch.zeros_like(weight)
    for j in range(cols):
        if static or group_size is None:
            grid = static_grids[order[j] // size]
        elif j % size == 0:
            grid = fit_grid((weight if fresh else outer)[:, j : j + size], rule)
        result[:, j] = quantize(weight[:, j : j + 1], grid)[:, 0]
        error = (weight[:, j] - result[:, j]) / inverse[j, j]
        weight[:, j + 1 :] -= error[:, None] * inverse[j, j + 1 :]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    unsorted = torch.zeros_like(result)
    unsorted[:, order] = result
    return unsorted


@pytest.mark.parametrize(
    "settings",
    [
        {"bits": 2},
        {"bits": 3, "group_size": 16},
        {"bits": 3, "group_size": 16, "fresh_group_stats": True},
        {"bits": 4, "group_size": 16, "static_groups": True, "act_order": True},
        {"bits": 4, "group_size": 32, "act_order": True, "sym": True},
        {"bits": 8},
        {"bits": 3, "group_size": 16, "scale_dtype": "float16", "mse": True},
        {"bits": 2, "group_size": 32, "static_groups": True, "scale_dtype": "bfloat16"},
    ],
    ids=str,
)
def test_blocks_equal_one_column_at_a_time(problem, settings):
    rule = GridRule(**{key: value for key, value in settings.items() if key in ("bits", "sym", "mse", "scale_dtype")})
    plain = {"group_size": None, "act_order": False, "static": False, "fresh": False}
    names = {"static_groups": "static", "fresh_group_stats": "fresh"}
    plain.update({names.get(key, key): value for key, value in settings.items() if not hasattr(rule, key)})
    expected = one_column_at_a_time(problem, rule, **plain)
    result = compress_linear(
        get_method("gptq", block_size=64, **{**PUBLISHED, **settings}), problem.weight, problem.inputs
    ).weight
    assert torch.isclose(result.double(), expected, rtol=1e-4, atol=1e-6).double().mean() > 0.98


@pytest.mark.parametrize("settings", [{"group_size": 32, "fresh_group_stats": True}, {}, {"act_order": True}], ids=str)
def test_block_size_does_not_change_the_result(problem, settings):
    results = [
        compress_linear(
            get_method("gptq", block_size=size, **{**PUBLISHED, **settings}), problem.weight, problem.inputs
        ).weight
        for size in (1, 16, 40, 128)
    ]
    for other in results[1:]:
        assert torch.isclose(results[0], other, rtol=1e-4, atol=1e-6).double().mean() > 0.99


def test_uncorrelated_inputs_of_equal_size_give_round_to_nearest(problem, device):
    inputs = torch.eye(64, device=device)[None]
    gptq = compress_linear(get_method("gptq", bits=3, group_size=16), problem.weight, inputs).weight
    rtn = compress_linear(get_method("rtn", bits=3, group_size=16), problem.weight).weight
    assert torch.allclose(gptq, rtn, atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_output_error_is_below_round_to_nearest(make_problem, seed):
    problem = make_problem(seed=seed)
    gptq, rtn = (
        compress_linear(get_method(name, bits=3), problem.weight, problem.inputs).weight for name in ("gptq", "rtn")
    )
    assert problem.output_error(gptq) < 0.8 * problem.output_error(rtn)


@pytest.mark.parametrize("settings", [{"bits": 3}, {"bits": 4, "act_order": True}], ids=str)
def test_sum_of_column_errors_is_the_proxy_loss(problem, settings, device):
    """Σ e² = tr[(W−Ŵ)(H+λI)(W−Ŵ)ᵀ]: the identity behind optimal brain compression."""
    method = get_method("gptq", **settings)
    result = compress_linear(method, problem.weight, problem.inputs)
    hessian = collect(method, problem.inputs, problem.weight).hessian.double()
    delta = (problem.weight - result.compressed.weight).double()
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(64, device=device)
    assert float(result.compressed.loss) == pytest.approx((delta @ damped * delta).sum().item(), rel=1e-3)


def test_linears_solved_together_equal_each_alone(problem, make_problem):
    other = make_problem(rows=9, seed=5).weight
    method = get_method("gptq", bits=3, group_size=16)
    statistic = collect(method, problem.inputs, problem.weight)
    together = method.compress_weights([problem.weight, other], statistic)
    assert torch.allclose(together[0].weight, method.compress_weight(problem.weight, statistic).weight, atol=1e-6)
    assert torch.allclose(together[1].weight, method.compress_weight(other, statistic).weight, atol=1e-6)


def test_dead_inputs_and_zero_rows_are_zero(problem):
    problem.inputs[:, :, [0, 9]] = 0
    problem.weight[4] = 0
    result = compress_linear(get_method("gptq", bits=4), problem.weight, problem.inputs)
    assert (result.weight[:, [0, 9]] == 0).all()
    assert (result.weight[4] == 0).all()
    assert result.report.dead_columns == 2


def test_zeros_of_an_earlier_step_stay_and_the_rest_makes_up(problem):
    method = get_method("gptq", bits=4)
    statistic = collect(method, problem.inputs, problem.weight)
    pruned = torch.rand(24, 64, generator=torch.Generator().manual_seed(1)).to(problem.weight.device) < 0.5
    weight = problem.weight.masked_fill(pruned, 0)
    quantized = method.compress_weight(weight, statistic, pruned=pruned).weight
    assert (quantized[pruned] == 0).all()
    rounded = get_method("rtn", bits=4).compress_weight(weight, None, pruned=pruned).weight
    ours, theirs = (statistic.output_error(weight - new, weight)[0] for new in (quantized, rounded))
    assert ours < theirs


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [3, 4])
def test_groups_that_follow_the_order_are_handed_over(problem, bits, sym):
    problem.inputs[..., 5] = 0  # dead
    settings = {"bits": bits, "sym": sym, "group_size": 16, "scale_dtype": "float16"}
    method = get_method("gptq", static_groups=False, **settings)
    weight = problem.weight.half()
    found = method.compress_weight(weight, collect(method, problem.inputs, weight))
    power = problem.inputs.reshape(-1, 64).double().square().sum(0)
    power[5] = problem.inputs.shape[0] / 2  # a Hessian of 2/n XᵀX has a diagonal of 1 there
    rank = torch.argsort(torch.argsort(power, descending=True))
    assert found.group_of.tolist() == (rank // 16).tolist()
    codes = find_codes(found.weight.half(), bits, sym=sym, group_size=16, group_of=found.group_of)
    assert torch.equal(codes.weight(), found.weight.half())
    assert torch.equal(codes.weight()[:, 5], torch.zeros_like(weight[:, 5]))
    with pytest.raises(NotOnGridError):
        find_codes(found.weight.half(), bits, sym=sym, group_size=16)


@pytest.mark.parametrize("settings", [{"group_size": 16}, {}, {"group_size": 16, **PUBLISHED}], ids=str)
def test_groups_of_consecutive_inputs_are_not_handed_over(problem, settings):
    method = get_method("gptq", **settings)
    assert method.compress_weight(problem.weight, collect(method, problem.inputs, problem.weight)).group_of is None


def test_settings_that_contradict_are_refused():
    with pytest.raises(SettingsError, match=r"gptq.static_groups: needs a group_size"):
        get_method("gptq", static_groups=True)
    with pytest.raises(SettingsError, match=r"gptq.fresh_group_stats: static groups"):
        get_method("gptq", static_groups=True, fresh_group_stats=True, group_size=16)
    with pytest.raises(SettingsError, match=r"gptq.percdamp: expected at least 0.*, got -1"):
        get_method("gptq", percdamp=-1.0)


def test_group_size_must_divide_the_inputs(problem):
    with pytest.raises(SettingsError, match=r"group_size: 48 does not divide the 64 inputs of weight.*32.*64"):
        compress_linear(get_method("gptq", group_size=48), problem.weight, problem.inputs)


def test_label_is_short():
    assert get_method("gptq", bits=3, group_size=32).label == "GPTQ 3-bit g32"
    assert get_method("gptq", true_sequential=True).label == "GPTQ 4-bit true-sequential"
    assert get_method("gptq", group_size=32, **PUBLISHED).label == "GPTQ 4-bit g32 no act-order dynamic"
    assert get_method("gptq", group_size=32, fresh_group_stats=True).label == "GPTQ 4-bit g32 fresh"


def test_groups_are_static_where_there_are_groups_and_nothing_else_is_asked_for():
    assert get_method("gptq").static_groups is False
    assert get_method("gptq", group_size=16).static_groups is True
    assert get_method("gptq", group_size=16, fresh_group_stats=True).static_groups is False
    named = get_method("gptq", group_size=16, act_order=True, static_groups=True)
    assert get_method("gptq", group_size=16).identity() == named.identity()
