from __future__ import annotations

import pytest
import torch

from methods.inputs.hessian import Hessian
from methods.numerics.gram import add_gram, mirrored


def test_panels_of_a_wide_hessian_give_the_same(make_problem, device):
    wide = make_problem(cols=600, windows=2)
    flat = wide.inputs.reshape(-1, 600).double()
    statistic = Hessian(600, device)
    for window in wide.inputs:
        statistic.update(window)
    got = statistic.hessian
    assert torch.allclose(got.double(), flat.T @ flat, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_grow_by_the_products_of_the_inputs(device, dtype):
    inputs = torch.randn(50, 300, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    total = torch.zeros(300, 300, device=device)
    add_gram(total, inputs)
    add_gram(total, inputs)
    exact = 2 * inputs.double().T @ inputs.double()
    assert torch.allclose(mirrored(total).double(), exact, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("panel", [1, 3, 7, 2048])
def test_what_is_below_the_diagonal_is_overwritten(panel):
    upper = torch.triu(torch.rand(7, 7)) + torch.tril(torch.full((7, 7), float("nan")), -1)
    expected = torch.triu(upper.nan_to_num()) + torch.triu(upper.nan_to_num(), 1).T
    found = mirrored(upper, panel)
    assert torch.equal(found, expected)
    assert found is upper
