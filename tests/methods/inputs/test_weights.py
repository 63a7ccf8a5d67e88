"""Tokens that count more or less than once: every statistic against a float64 sum, and against repeated tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from methods.inputs.hessian import Hessian
from methods.inputs.norms import FeatureNorms, Magnitudes
from methods.inputs.sample import InputSample
from methods.inputs.statistic import Statistic

KINDS: list[type[Statistic]] = [Hessian, FeatureNorms, Magnitudes, InputSample]


@pytest.fixture
def inputs(device: str) -> torch.Tensor:
    return torch.randn(60, 8, generator=torch.Generator().manual_seed(0)).to(device)


@pytest.fixture
def weights(device: str) -> torch.Tensor:
    return (torch.rand(60, generator=torch.Generator().manual_seed(1)) * 3 + 0.1).to(device)


def of(kind: type[Statistic], inputs: torch.Tensor, weights: torch.Tensor | None = None, windows: int = 3) -> Any:
    statistic = kind(inputs.shape[1], inputs.device)
    parts = [None] * 3 if weights is None else weights.split(20)
    for part, some in zip(inputs.split(20), parts, strict=True):
        statistic.update(part, windows // 3, some)
    return statistic


def test_sums_are_weighted(inputs: torch.Tensor, weights: torch.Tensor) -> None:
    x, w = inputs.double(), weights.double()
    torch.testing.assert_close(
        of(Hessian, inputs, weights).hessian.double(), 2 / 3 * (x.T * w) @ x, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        of(FeatureNorms, inputs, weights).squared_norms.double(), w @ x**2 / 3, rtol=1e-4, atol=0
    )
    found = of(Magnitudes, inputs, weights)
    torch.testing.assert_close(found.mean.double(), w @ x.abs() / w.sum(), rtol=1e-4, atol=0)
    assert torch.equal(found.largest, inputs.abs().amax(0))


@pytest.mark.parametrize("kind", KINDS)
def test_output_error_is_weighted(kind: type[Statistic], inputs: torch.Tensor, weights: torch.Tensor) -> None:
    delta = torch.randn(5, 8, generator=torch.Generator().manual_seed(2)).to(inputs.device)
    statistic = of(kind, inputs, weights)
    if kind is Hessian:
        expected = 2 / 3 * (weights.double() * ((inputs.double() @ delta.double().T) ** 2).sum(1)).sum()
    else:  # on the sample: all tokens of a small set, of which the last few may be left out
        rows = inputs[: len(statistic.sample()) * (60 // len(statistic.sample())) : 60 // len(statistic.sample())]
        some = weights[: len(rows) * (60 // len(rows)) : 60 // len(rows)]
        expected = (some.double() * ((rows.double() @ delta.double().T) ** 2).sum(1)).sum()
    error, _ = statistic.output_error(delta, delta)
    torch.testing.assert_close(error.double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", [Hessian, FeatureNorms, Magnitudes])
def test_a_token_that_counts_twice_is_one_that_is_there_twice(kind: type[Statistic], inputs: torch.Tensor) -> None:
    twice = of(kind, inputs, torch.full_like(inputs[:, 0], 2.0))
    repeated = kind(8, inputs.device)
    repeated.update(inputs.repeat_interleave(2, 0), 3)
    for name in ("hessian", "squared_norms", "mean", "largest"):
        if hasattr(twice, name):
            torch.testing.assert_close(getattr(twice, name), getattr(repeated, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Hessian, FeatureNorms])
def test_two_copies_that_count_half_are_one(kind: type[Statistic], inputs: torch.Tensor) -> None:
    halves = kind(8, inputs.device)
    for _ in range(2):
        halves.update(inputs, 3, torch.full_like(inputs[:, 0], 0.5))
    once: Any = kind(8, inputs.device)
    once.update(inputs, 6)
    for name in ("hessian", "squared_norms"):
        if hasattr(once, name):
            torch.testing.assert_close(getattr(halves, name), getattr(once, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_updates_add_up(kind: type[Statistic], inputs: torch.Tensor, weights: torch.Tensor) -> None:
    one, other = kind(8, inputs.device), kind(8, inputs.device)
    one.update(inputs[:30], 1)
    one.update(inputs[30:], 1, weights[30:])
    other.update(inputs, 2, torch.cat([torch.ones_like(weights[:30]), weights[30:]]))
    delta = torch.eye(8, device=inputs.device)
    torch.testing.assert_close(
        one.output_error(delta, delta)[0], other.output_error(delta, delta)[0], rtol=1e-4, atol=0
    )
    if isinstance(one, Magnitudes) and isinstance(other, Magnitudes):
        torch.testing.assert_close(one.mean, other.mean, rtol=1e-4, atol=0)
