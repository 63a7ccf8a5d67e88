from __future__ import annotations

import pytest
import torch

from methods.base import CompressionError
from methods.inputs.hessian import Hessian, alike_in_width, factor_together
from methods.numerics.factor import FactorSettings, inverse_factor


def test_hessian_is_twice_the_mean_over_windows(fill, problem, device):
    got = fill(Hessian(64, device), problem.inputs, 1).hessian
    flat = problem.inputs.reshape(-1, 64).double()
    assert torch.allclose(got.double(), 2 / 4 * flat.T @ flat, rtol=1e-5, atol=1e-4)
    assert torch.equal(got, got.T)


def test_half_precision_activations_are_summed_in_float32(fill, problem, device):
    inputs = problem.inputs.bfloat16()
    expected = fill(Hessian(64, device), inputs.float(), 1).hessian
    found = fill(Hessian(64, device), inputs, 1).hessian
    assert (found - expected).abs().max() <= (1e-5 if device == "cuda" else 0) * expected.abs().max()


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
    assert [hessian.has_factor(settings) for hessian in hessians] == [on_cuda, on_cuda, False, on_cuda]
    assert not hopeless.has_factor(settings)
    for hessian, expected in zip(hessians, alone, strict=True):
        found = hessian.factor(settings)
        assert torch.equal(found.order, expected.order)
        assert torch.allclose(found.upper, expected.upper, rtol=1e-4, atol=1e-5)
    with pytest.raises(CompressionError):
        hopeless.factor(settings)
