"""Divergences against the definition, computed in float64 one position at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.evaluation.metrics.divergence import divergences
from sweep.evaluation.scorer.forward import log_norm


def ours(dense: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    left, right = torch.tensor(dense, dtype=torch.float32), torch.tensor(other, dtype=torch.float32)
    js, forward, backward = divergences(left, log_norm(left)[0], right, log_norm(right)[0])
    return js.numpy(), forward.numpy(), backward.numpy()


def naive(dense: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    def softmax(logits: np.ndarray) -> np.ndarray:
        exact = np.asarray(logits, np.float32).astype(np.float64)
        weights = np.exp(exact - exact.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    def kl(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        known = left > 0
        ratio = np.log(np.where(known, left, 1)) - np.log(np.where(known, right, 1))
        return np.where(known, left * ratio, 0).sum(-1)

    p, q = softmax(dense), softmax(other)
    middle = (p + q) / 2
    return (kl(p, middle) + kl(q, middle)) / 2, kl(p, q), kl(q, p)


LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=6, max_size=6)


@settings(deadline=None)
@given(dense=LOGITS, other=LOGITS)
def test_equals_the_definition_in_float64(dense: list[float], other: list[float]) -> None:
    found, wanted = ours(np.array([dense]), np.array([other])), naive(np.array([dense]), np.array([other]))
    for value, exact in zip(found, wanted, strict=True):
        np.testing.assert_allclose(value, exact, rtol=2e-4, atol=2e-6)


@settings(deadline=None)
@given(dense=LOGITS, other=LOGITS)
def test_jensen_shannon_is_symmetric_and_at_most_ln_2(dense: list[float], other: list[float]) -> None:
    forth, back = ours(np.array([dense]), np.array([other]))[0], ours(np.array([other]), np.array([dense]))[0]
    np.testing.assert_allclose(forth, back, rtol=1e-5, atol=0)
    assert 0 <= forth[0] <= math.log(2) * (1 + 1e-5)


@settings(deadline=None)
@given(logits=LOGITS)
def test_identical_distributions_are_exactly_zero_apart(logits: list[float]) -> None:
    for value in ours(np.array([logits]), np.array([logits])):
        assert value[0] == 0.0


@pytest.mark.parametrize("size", [1e-3, 1e-2, 0.1, 1.0])
def test_small_divergences_keep_their_digits(size: float) -> None:
    rng = np.random.default_rng(0)
    dense = rng.normal(0, 3, (20, 8192))
    other = dense + size * rng.normal(0, 1, dense.shape)
    found, wanted = ours(dense, other), naive(dense, other)
    for value, exact in zip(found, wanted, strict=True):
        np.testing.assert_allclose(value, exact, rtol=2e-3 if size < 0.01 else 2e-4)


def test_distributions_without_overlap_give_ln_2() -> None:
    found = ours(np.array([[100.0, -100.0, -100.0]]), np.array([[-100.0, 100.0, -100.0]]))
    assert found[0][0] == pytest.approx(math.log(2), rel=1e-5)
    assert found[1][0] == pytest.approx(200, rel=1e-5)
    assert np.isfinite(found[2][0])
