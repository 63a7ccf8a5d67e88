from __future__ import annotations

import pytest
import torch

from methods.base import CompressionError, compress_linear, get_method


def test_mask_equals_a_double_loop(problem):
    result = compress_linear(get_method("wanda", sparsity=0.4), problem.weight, problem.inputs).weight
    norms = [sum(problem.inputs[w, :, j].double().square().sum().item() for w in range(4)) / 4 for j in range(64)]
    for i in range(24):
        scores = [abs(problem.weight[i, j].item()) * norms[j] ** 0.5 for j in range(64)]
        pruned = set(sorted(range(64), key=lambda j: (scores[j], j))[: int(64 * 0.4)])
        assert set((result[i] == 0).nonzero().flatten().tolist()) == pruned


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.77])
def test_every_row_loses_the_same_count_and_the_rest_is_untouched(problem, sparsity):
    result = compress_linear(get_method("wanda", sparsity=sparsity), problem.weight, problem.inputs).weight
    assert ((result == 0).sum(1) == int(64 * sparsity)).all()
    assert torch.equal(result[result != 0], problem.weight[result != 0])


def test_equal_input_norms_give_magnitude_within_rows(problem, device):
    inputs = torch.eye(64, device=device)[None].repeat(3, 1, 1)
    wanda = compress_linear(get_method("wanda"), problem.weight, inputs).weight
    assert torch.equal(wanda, compress_linear(get_method("magnitude", compare="row"), problem.weight).weight)


def test_dead_inputs_go_first(problem):
    problem.inputs[:, :, :16] = 0
    result = compress_linear(get_method("wanda", sparsity=0.25), problem.weight, problem.inputs)
    assert (result.weight[:, :16] == 0).all()
    assert result.report.dead_columns == 16
    assert result.report.relative_error == 0


def test_alpha_search_reaches_the_share_with_unequal_rows(make_problem):
    problem = make_problem(rows=64)
    method = get_method("wanda", alpha_search=True, sparsity=0.5)
    result = compress_linear(method, problem.weight, problem.inputs).weight
    assert float((result == 0).double().mean()) == pytest.approx(0.5, abs=0.003)
    counts = (result == 0).sum(1)
    assert counts.min() < counts.max()
    norms = problem.inputs.square().sum(1).mean(0).sqrt()
    scores = problem.weight.abs() * norms
    for row, kept in zip(scores, result, strict=True):
        assert row[kept == 0].max() <= row[kept != 0].min()


def test_alpha_search_never_prunes_a_row_in_which_nothing_fits(make_problem):
    problem = make_problem(rows=8)
    problem.weight[0] = 0
    problem.weight[0, 0] = 5.0  # one weight holds the whole sum
    method = get_method("wanda", alpha_search=True, sparsity=0.1)
    assert compress_linear(method, problem.weight, problem.inputs).weight[0, 0] == 5.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_search_for_alpha_does_not_prune_what_is_not_finite_in_silence(problem, value):
    problem.weight[3, 5] = value
    with pytest.raises(CompressionError, match="the dense weight holds NaN or infinity"):
        compress_linear(get_method("wanda", alpha_search=True), problem.weight, problem.inputs)
