from __future__ import annotations

import pytest
import torch

from methods.base import compress_linear, get_method


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.3337, 0.5, 0.99])
def test_exactly_the_asked_share_of_smallest_weights_goes(problem, sparsity):
    result = compress_linear(get_method("magnitude", sparsity=sparsity), problem.weight)
    zeros = result.weight == 0
    assert zeros.sum() == round(problem.weight.numel() * sparsity)
    assert torch.equal(result.weight[~zeros], problem.weight[~zeros])
    if zeros.any():
        assert problem.weight[zeros].abs().max() <= problem.weight[~zeros].abs().min()


def test_ties_do_not_change_the_count_unless_the_reference_rule_is_asked_for(problem):
    weight = (problem.weight * 20).round() / 20
    exact = compress_linear(get_method("magnitude", sparsity=0.3), weight).weight
    reference = compress_linear(get_method("magnitude", sparsity=0.3, reference_ties=True), weight).weight
    threshold = weight.abs().flatten().sort().values[int(weight.numel() * 0.3)]
    assert torch.equal(reference, weight.masked_fill(weight.abs() <= threshold, 0))
    assert (exact == 0).sum() <= max(round(weight.numel() * 0.3), int((weight == 0).sum()))


def test_rows_compete_on_their_own_when_asked(problem):
    result = compress_linear(get_method("magnitude", sparsity=0.25, compare="row"), problem.weight)
    assert ((result.weight == 0).sum(1) == 16).all()


def test_pattern_keeps_the_largest_of_each_group(problem):
    result = compress_linear(get_method("magnitude", pattern="2:4"), problem.weight).weight
    for row, kept in zip(problem.weight, result, strict=True):
        for start in range(0, 64, 4):
            largest = row[start : start + 4].abs().argsort(descending=True)[:2]
            assert set(kept[start : start + 4].nonzero().flatten().tolist()) == set(largest.tolist())
