"""Participation ratio and Stein's loss against eigenvalues and determinants in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from sweep.describe.base import SET, Described
from sweep.describe.participation_ratio import directions, participation_ratio
from sweep.describe.stein_loss import loss_per_column, stein_loss
from sweep.features.hessians import second_moments
from tests.sweep.describe.conftest import inputs_of_linears

INPUTS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")  # one of each that share one


def plain_moments(described: Described, texts: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    found = []
    for layer in described.layers:
        inputs = {name: inputs_of_linears(described.model, windows, layer) for name, windows in texts.items()}
        found += [{name: each[i].T @ each[i] / len(each[i]) for name, each in inputs.items()} for i in INPUTS]
    return found


def test_second_moments_are_those_of_plain_forwards(described: Described) -> None:
    texts = {"set": described.tokens, **described.targets}
    ours = list(second_moments(described.model, texts, described.layers, batch_size=3))
    expected = plain_moments(described, texts)
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected, strict=True):
        for name in texts:
            np.testing.assert_allclose(one[name].numpy(), other[name], rtol=1e-3, atol=1e-4 * np.abs(other[name]).max())


def test_participation_ratio_is_that_of_the_eigenvalues(described: Described) -> None:
    found = []
    for moments in plain_moments(described, {SET: described.tokens}):
        values = np.linalg.eigvalsh(moments[SET])
        found.append(values.sum() ** 2 / (values**2).sum())
    assert participation_ratio(described)[SET] == pytest.approx(np.mean(found), rel=1e-3)


def test_participation_ratio_counts_equal_directions() -> None:
    assert directions(torch.diag(torch.tensor([3.0, 3.0, 0.0, 3.0]))) == pytest.approx(3)
    assert directions(torch.zeros(4, 4)) == 0.0


def test_stein_loss_is_that_of_determinants_and_inverse(described: Described) -> None:
    found = stein_loss(described)
    for name, windows in described.targets.items():
        losses = []
        for moments in plain_moments(described, {SET: described.tokens, name: windows}):
            ours, target = moments[SET], moments[name]
            damping = 0.01 * np.trace(ours) / len(ours) * np.eye(len(ours))
            one, other = ours + damping, target + damping
            logarithms = np.linalg.slogdet(one)[1] - np.linalg.slogdet(other)[1]
            losses.append((logarithms + np.trace(np.linalg.inv(one) @ other) - len(ours)) / len(ours))
        assert found[name] == pytest.approx(np.mean(losses), rel=1e-3)


def test_stein_loss_is_zero_for_equals_and_positive_for_others(described: Described) -> None:
    assert stein_loss(replace(described, targets={"itself": described.tokens}))["itself"] == pytest.approx(0, abs=1e-9)
    assert all(loss > 0 for loss in stein_loss(described).values())
    assert math.isinf(loss_per_column(torch.zeros(3, 3).double(), torch.eye(3).double()))
