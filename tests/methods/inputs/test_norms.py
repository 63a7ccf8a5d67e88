from __future__ import annotations

import pytest
import torch

from methods.inputs.hessian import Hessian
from methods.inputs.norms import FeatureNorms, Magnitudes, column_norms


def test_feature_norms_are_the_hessians_half_diagonal(fill, problem, device):
    norms = fill(FeatureNorms(64, device), problem.inputs, 1).squared_norms
    assert torch.allclose(norms, fill(Hessian(64, device), problem.inputs, 1).hessian.diagonal() / 2, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("tokens", "cols"), [(16384, 96), (3, 1), (1000, 257)])
def test_column_norms_are_those_of_float64(device, dtype, tokens, cols):
    inputs = (torch.randn(tokens, cols, generator=torch.Generator().manual_seed(0)) * 3 + 0.5).to(dtype)
    exact, sizes = inputs.double(), inputs.double().abs()
    tolerance = 1e-5 if device == "cuda" else 1e-4  # torch on a processor sums columns one after the other
    for order, expected in ((1, sizes.sum(0)), (2, exact.square().sum(0).sqrt()), (torch.inf, sizes.amax(0))):
        found = column_norms(inputs.to(device), order)
        assert found.dtype == torch.float32
        assert torch.allclose(found.cpu().double(), expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_column_norms_keep_what_is_not_finite(bad):
    inputs = torch.ones(4, 2, dtype=torch.bfloat16)
    inputs[1, 0] = bad
    assert torch.isfinite(column_norms(inputs, 2)).tolist() == [False, True]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_sums_on_the_device_are_those_of_the_cpu(fill):
    inputs = (torch.randn(8, 512, 96, generator=torch.Generator().manual_seed(0)) * 2 + 0.3).bfloat16()
    found = []
    for device in ("cpu", "cuda"):
        norms, sizes = (fill(kind(96, device), inputs.to(device), 4) for kind in (FeatureNorms, Magnitudes))
        found.append(torch.stack([norms.squared_norms, sizes.mean, sizes.largest]).cpu())
    assert torch.allclose(found[0], found[1], rtol=1e-5, atol=0)
