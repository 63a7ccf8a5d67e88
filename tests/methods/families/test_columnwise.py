from __future__ import annotations

import pytest
import torch

from methods.base import METHODS, get_method
from methods.families.columnwise import ColumnMethod, split_columns, stack_columns, stack_masks
from methods.inputs.collect import collect

NAMES = [name for name in METHODS.names() if issubclass(METHODS.get(name), ColumnMethod)]


def test_splitting_undoes_stacking():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(rows, 5, generator=generator) for rows in (3, 1, 4)]
    stacked = stack_columns(weights)
    assert stacked.shape == (5, 8)
    results = split_columns(stacked, stacked.square().sum(0), weights, 4.0)
    for weight, result in zip(weights, results, strict=True):
        assert torch.equal(result.weight, weight)
        assert float(result.loss) == pytest.approx(weight.square().sum().item())
        assert result.bits == 4.0


def test_a_weight_without_a_mask_is_stacked_as_one_that_keeps_everything():
    weights = [torch.zeros(2, 3), torch.zeros(4, 3)]
    mask = torch.tensor([[True, False, False], [False, False, True]])
    stacked = stack_masks(weights, [mask, None])
    assert torch.equal(stacked[:, :2], mask.T)
    assert not stacked[:, 2:].any()
    assert stack_masks(weights, [None, None]) is None
    assert stack_masks(weights, None) is None


def test_the_column_methods_are_known():
    assert NAMES == ["gptq", "sparsegpt", "spqr"]


@pytest.mark.parametrize("name", NAMES)
def test_every_result_carries_the_telemetry_of_the_factor(name, make_problem):
    problem = make_problem(rows=32)
    method = get_method(name, percdamp=0.03)
    problem.inputs[..., 5] = 0
    statistic = collect(method, problem.inputs, problem.weight)
    factor = statistic.factor(method.factor_settings)
    for result in method.compress_weights([problem.weight, problem.weight.flip(0)[:16]], statistic):
        assert result.damping == factor.damping == 0.03
        assert (result.retries, result.fallback) == (0, None)
        assert int(result.dead_columns) == 1
