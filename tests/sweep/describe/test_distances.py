"""Distances of activations against plain forwards in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sweep.describe.activation_distance import activation_distance
from sweep.describe.base import SET, Described
from sweep.describe.own_distance import own_distance
from tests.sweep.describe.conftest import plain


def expected(described: Described, target: np.ndarray) -> float:
    layers = described.layers
    ours, theirs = (
        np.stack([np.abs(plain(described.model, windows)[1][layer]).mean(1) for layer in layers])
        for windows in (described.tokens, target)
    )
    return float((((ours.mean(1) - theirs.mean(1)) / theirs.std(1)) ** 2).mean())


def test_distances_are_those_of_plain_forwards(described: Described) -> None:
    found = activation_distance(described)
    assert found == {
        name: pytest.approx(expected(described, windows), rel=1e-3) for name, windows in described.targets.items()
    }
    assert described.own is not None
    assert own_distance(described)[SET] == pytest.approx(expected(described, described.own), rel=1e-3)


def test_a_set_is_no_distance_from_itself(described: Described) -> None:
    own = replace(described, targets={"itself": described.tokens}, own=described.tokens)
    assert activation_distance(own) == {"itself": 0.0}
    assert own_distance(own) == {SET: 0.0}
