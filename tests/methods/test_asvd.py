from __future__ import annotations

import torch

from methods.base import compress_linear, get_method


def test_asvd_weights_columns_by_the_size_of_their_inputs(problem):
    result = compress_linear(get_method("asvd", ratio=0.5, alpha=1.0), problem.weight, problem.inputs)
    scale = problem.inputs.abs().mean((0, 1))
    left, singular, right = torch.linalg.svd(problem.weight * scale, full_matrices=False)
    rank = result.report.rank
    expected = left[:, :rank] * singular[:rank] @ right[:rank] / scale
    assert torch.allclose(result.weight, expected, atol=1e-4)
    plain = compress_linear(get_method("asvd", ratio=0.5, alpha=0.0), problem.weight, problem.inputs).weight
    assert torch.allclose(plain, compress_linear(get_method("svd", ratio=0.5), problem.weight).weight, atol=1e-5)
