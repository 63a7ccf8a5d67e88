from __future__ import annotations

import pytest
import torch

from methods.base import CompressionError, compress_linear, get_method
from methods.inputs.fisher import Fisher
from methods.inputs.hessian import Hessian
from methods.inputs.norms import FeatureNorms, Magnitudes
from methods.inputs.sample import InputSample
from methods.inputs.structure import Structure


@pytest.mark.parametrize("kind", [Hessian, FeatureNorms])
def test_batch_size_changes_only_rounding(fill, problem, kind, device):
    one, four = (fill(kind(64, device), problem.inputs, size) for size in (1, 4))
    a, b = (s.hessian if kind is Hessian else s.squared_norms for s in (one, four))
    assert (a - b).abs().max() <= 1e-5 * a.abs().max()
    assert one.tokens == four.tokens == 160
    assert one.windows == four.windows == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["gptq", "wanda", "sparsegpt"])
def test_nan_and_infinity_in_the_inputs_fail(problem, name, bad):
    problem.inputs[2, 7, 11] = bad
    with pytest.raises(CompressionError, match="NaN or infinity"):
        compress_linear(get_method(name), problem.weight, problem.inputs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", [FeatureNorms, Magnitudes, InputSample, Structure, Fisher, Hessian])
def test_collecting_never_waits_for_the_device(kind, dtype, without_waiting):
    inputs = torch.randn(64, 128, device="cuda").to(dtype)
    statistic = kind(128, inputs.device)
    statistic.update(inputs)
    with without_waiting():
        statistic.update(inputs)
