from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from methods.base import CompressionError, compress_linear, get_method
from methods.inputs.fisher import Fisher
from methods.inputs.hessian import Hessian, alike_in_width, factor_together
from methods.inputs.norms import FeatureNorms, Magnitudes, column_norms
from methods.inputs.sample import InputSample
from methods.inputs.structure import Structure
from methods.numerics.factor import FactorSettings, inverse_factor


def fill(statistic, inputs, batch):
    for start in range(0, inputs.shape[0], batch):
        part = inputs[start : start + batch]
        statistic.update(part.reshape(-1, part.shape[-1]), part.shape[0])
    return statistic


def test_hessian_is_twice_the_mean_over_windows(problem, device):
    got = fill(Hessian(64, device), problem.inputs, 1).hessian
    flat = problem.inputs.reshape(-1, 64).double()
    assert torch.allclose(got.double(), 2 / 4 * flat.T @ flat, rtol=1e-5, atol=1e-4)
    assert torch.equal(got, got.T)


def test_panels_of_a_wide_hessian_give_the_same(make_problem, device):
    wide = make_problem(cols=600, windows=2)
    flat = wide.inputs.reshape(-1, 600).double()
    got = fill(Hessian(600, device), wide.inputs, 1).hessian
    assert torch.allclose(got.double(), flat.T @ flat, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("kind", [Hessian, FeatureNorms])
def test_batch_size_changes_only_rounding(problem, kind, device):
    one, four = (fill(kind(64, device), problem.inputs, size) for size in (1, 4))
    a, b = (s.hessian if kind is Hessian else s.squared_norms for s in (one, four))
    assert (a - b).abs().max() <= 1e-5 * a.abs().max()
    assert one.tokens == four.tokens == 160
    assert one.windows == four.windows == 4


def test_half_precision_activations_are_summed_in_float32(problem, device):
    inputs = problem.inputs.bfloat16()
    expected = fill(Hessian(64, device), inputs.float(), 1).hessian
    found = fill(Hessian(64, device), inputs, 1).hessian
    assert (found - expected).abs().max() <= (1e-5 if device == "cuda" else 0) * expected.abs().max()


def test_feature_norms_are_the_hessians_half_diagonal(problem, device):
    norms = fill(FeatureNorms(64, device), problem.inputs, 1).squared_norms
    assert torch.allclose(norms, fill(Hessian(64, device), problem.inputs, 1).hessian.diagonal() / 2, rtol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["gptq", "wanda", "sparsegpt"])
def test_nan_and_infinity_in_the_inputs_fail(problem, name, bad):
    problem.inputs[2, 7, 11] = bad
    with pytest.raises(CompressionError, match="NaN or infinity"):
        compress_linear(get_method(name), problem.weight, problem.inputs)


def test_wandas_error_comes_from_a_fixed_sample_close_to_all_inputs(make_problem):
    large = make_problem(windows=16, length=128)
    result = compress_linear(get_method("wanda"), large.weight, large.inputs)
    assert result.report.relative_error == pytest.approx(large.output_error(result.weight), rel=0.1)
    again = compress_linear(get_method("wanda"), large.weight, large.inputs)
    assert again.report.relative_error == result.report.relative_error


@pytest.mark.parametrize(("windows", "length"), [(16, 96), (6, 100), (5, 7), (300, 40), (2, 3000)])
def test_the_sample_depends_on_the_tokens_and_not_on_batches(windows, length):
    inputs = torch.arange(windows * length, dtype=torch.float32)[:, None].expand(-1, 3)

    def sampled(batches):
        statistic = FeatureNorms(3)
        for part in batches:
            statistic.update(part, windows // len(batches))
        return statistic.sample()[:, 0]

    whole, one_by_one = sampled([inputs]), sampled(inputs.split(length))
    assert torch.equal(whole, one_by_one)
    assert min(16 * windows, windows * length, 1024) <= len(whole) <= min(2 * 16 * windows, 2048)
    assert len(set(whole.diff().tolist())) == 1  # evenly spaced
    assert whole[0] == 0
    assert whole[-1] >= windows * length - 2 * length


def test_inputs_of_the_wrong_width_are_refused(problem):
    with pytest.raises(SettingsError, match=r"\(4, 40, 64\) do not fit a weight of shape \(24, 32\)"):
        compress_linear(get_method("gptq"), problem.weight[:, :32], problem.inputs)
    with pytest.raises(SettingsError, match="needs inputs"):
        compress_linear(get_method("wanda"), problem.weight)


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
def test_sums_on_the_device_are_those_of_the_cpu():
    inputs = (torch.randn(8, 512, 96, generator=torch.Generator().manual_seed(0)) * 2 + 0.3).bfloat16()
    found = []
    for device in ("cpu", "cuda"):
        norms, sizes = (fill(kind(96, device), inputs.to(device), 4) for kind in (FeatureNorms, Magnitudes))
        found.append(torch.stack([norms.squared_norms, sizes.mean, sizes.largest]).cpu())
    assert torch.allclose(found[0], found[1], rtol=1e-5, atol=0)


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


def test_a_hessian_may_grow_after_it_was_asked_for():
    inputs = torch.randn(6, 50, 300, generator=torch.Generator().manual_seed(0))
    asked, whole = Hessian(300), Hessian(300)
    for window in inputs:
        asked.update(window)
        whole.update(window)
        assert torch.equal(asked.hessian, asked.hessian.T)
    assert torch.allclose(asked.hessian, whole.hessian, rtol=1e-5, atol=1e-5)
    exact = 2 / 6 * torch.einsum("wti,wtj->ij", inputs.double(), inputs.double())
    assert torch.allclose(whole.hessian.double(), exact, rtol=1e-4, atol=1e-4)


def test_output_error_of_many_rows_is_taken_in_parts(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    statistic = Hessian(32)
    statistic.update(torch.randn(200, 32, generator=generator))
    weight, delta = torch.randn(50, 32, generator=generator), torch.randn(50, 32, generator=generator)
    whole = statistic.output_error(delta, weight)
    monkeypatch.setattr(Hessian, "errors_at_once", 7 * 32)
    parts = statistic.output_error(delta, weight)
    assert torch.allclose(torch.stack(parts), torch.stack(whole), rtol=1e-6)


def hessians_of(widths, device, tokens=96):
    found = []
    for seed, cols in enumerate(widths):
        hessian = Hessian(cols, device)
        hessian.update(torch.randn(tokens, cols, generator=torch.Generator().manual_seed(seed)).to(device))
        found.append(hessian)
    return found


def test_hessians_of_one_width_are_factored_together_where_that_pays(monkeypatch):
    settings = FactorSettings(0.01)
    first, other, wide, second, third = hessians_of([8, 16, 3000, 8, 8], "cpu", tokens=2)
    idle = Hessian(8, "cpu")
    assert alike_in_width([], settings) == []
    assert alike_in_width([first, other, second, idle, third], settings) == [first, second, third]
    assert alike_in_width([other, first, second], settings) == []  # alone of its width
    assert alike_in_width([idle, first, second], settings) == []  # nothing reached it
    assert alike_in_width([wide, wide], settings) == []
    monkeypatch.setattr("methods.inputs.hessian.BATCHED_COLUMNS", {False: 4, True: 8})
    assert alike_in_width([first, second], settings) == []
    assert len(alike_in_width([first, second, third] * 3, settings)) == 9  # as many experts
    monkeypatch.setattr("methods.inputs.hessian.BATCHED_COLUMNS", {False: 8, True: 8})
    monkeypatch.setattr("methods.inputs.hessian.BATCHED_ENTRIES", 2 * 64)
    assert alike_in_width([first, second, third], settings) == [first, second]
    second.factor(settings)
    assert alike_in_width([first, second, third], settings) == [first, third]
    first.factor(settings)
    assert alike_in_width([first, second, third], settings) == []


@pytest.mark.parametrize("on_cuda", [False, True])
def test_factors_made_together_are_those_made_alone(device, monkeypatch, on_cuda):
    """On a processor as well, where it is not done by itself."""
    monkeypatch.setattr(Hessian, "on_cuda", on_cuda)
    settings = FactorSettings(0.01, act_order=True)
    hessians = hessians_of([24, 24, 40, 24], device)
    alone = [inverse_factor(hessian.hessian, settings) for hessian in hessians]
    hopeless = Hessian(24, device)
    hopeless.update(torch.full((2, 24), 1e20, device=device))
    factor_together([*hessians, hopeless], settings)
    assert [settings in hessian._factors for hessian in hessians] == [on_cuda, on_cuda, False, on_cuda]
    assert settings not in hopeless._factors
    for hessian, expected in zip(hessians, alone, strict=True):
        found = hessian.factor(settings)
        assert torch.equal(found.order, expected.order)
        assert torch.allclose(found.upper, expected.upper, rtol=1e-4, atol=1e-5)
    with pytest.raises(CompressionError):
        hopeless.factor(settings)
