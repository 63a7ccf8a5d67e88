from __future__ import annotations

import pytest
import torch

from methods.base import CompressionError, compress_linear, get_method
from methods.blockwise import compress_model, decoder_blocks
from methods.svd_llm import whiten


def test_svd_llm_loses_exactly_the_dropped_singular_values_of_the_output(problem):
    result = compress_linear(get_method("svd_llm", ratio=0.5), problem.weight, problem.inputs)
    flat = problem.inputs.reshape(-1, 64).double()
    singular = torch.linalg.svdvals(flat @ problem.weight.double().T)
    dropped = singular[result.report.rank :].square().sum().item()
    loss = (flat @ (problem.weight - result.weight).double().T).square().sum().item()
    assert loss == pytest.approx(dropped, rel=1e-3)
    assert result.report.relative_error == pytest.approx(dropped / singular.square().sum().item(), rel=1e-2)


@pytest.mark.parametrize("other", ["svd", "asvd"])
def test_svd_llm_has_the_least_output_error(problem, other):
    ours, theirs = (
        problem.output_error(compress_linear(get_method(n, ratio=0.5), problem.weight, problem.inputs).weight)
        for n in ("svd_llm", other)
    )
    assert ours < theirs


def test_factors_compute_what_the_report_says(make_llama, tokens):
    model, dense = make_llama(num_hidden_layers=1), make_llama(num_hidden_layers=1)
    compress_model(model, get_method("svd_llm", ratio=0.6), tokens)
    factors = decoder_blocks(model)[0].mlp.up_proj
    product = factors[1].weight @ factors[0].weight
    up = decoder_blocks(dense)[0].mlp.up_proj.weight
    assert torch.linalg.matrix_rank(product) == int(0.6 * 64 * 32 / 96)
    assert (product - up).norm() < 0.9 * up.norm()


def test_singular_gram_matrix_is_shifted_and_recorded(make_problem):
    few = make_problem(windows=1, length=10)
    report = compress_linear(get_method("svd_llm", ratio=0.5), few.weight, few.inputs).report
    assert "shifted" in report.fallback
    assert report.retries == 1
    assert 0 < report.damping < 1e-3


def test_inputs_that_are_all_zero_fail():
    with pytest.raises(CompressionError, match="all inputs are zero"):
        whiten(torch.zeros(4, 4), 0.0)
