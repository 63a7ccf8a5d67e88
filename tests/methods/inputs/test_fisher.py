from __future__ import annotations

import pytest
import torch

from methods.inputs.fisher import Fisher
from methods.inputs.sample import InputSample
from methods.outcome import CompressionError


def test_gradients_of_a_weight_stand_beside_the_sample_that_linears_share(problem, device, fill):
    shared = fill(Fisher(64, device), problem.inputs, 2)
    rows, columns = torch.rand(24, device=device), torch.rand(64, device=device)
    first, other = shared.of_weight(rows, columns), shared.of_weight(rows + 1, columns)
    assert torch.equal(first.rows, rows)
    assert torch.equal(first.columns, columns)
    assert torch.equal(other.rows, rows + 1)
    assert first.tokens == 160
    plain = fill(InputSample(64, device), problem.inputs, 2)
    delta = problem.weight * 0.1
    for mine, theirs in zip(
        first.output_error(delta, problem.weight), plain.output_error(delta, problem.weight), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_gradients_that_were_not_given_are_no_zeros(device):
    with pytest.raises(ValueError, match="of_weight"):
        _ = Fisher(4, device).rows


def test_inputs_that_are_not_finite_fail(problem, device):
    problem.inputs[1, 2, 3] = float("nan")
    statistic = Fisher(64, device)
    statistic.update(problem.inputs.reshape(-1, 64))
    with pytest.raises(CompressionError, match="NaN or infinity"):
        statistic.of_weight(torch.ones(24), torch.ones(64)).check()
