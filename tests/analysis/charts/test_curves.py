"""Axes of curves carry whole numbers of their own."""

from __future__ import annotations

import json

import polars as pl
import pytest

from analysis.charts.curves import layer_figure


@pytest.mark.parametrize(("blocks", "ticks"), [(1, [0]), (2, [0, 1]), (12, [*range(12)]), (32, [*range(0, 32, 3)])])
def test_blocks_are_labelled_with_their_own_numbers(blocks: int, ticks: list[int]) -> None:
    columns = {"block": range(blocks), "mean": [0.1] * blocks, "sd": [0.01] * blocks, "n": [3] * blocks}
    spec = json.dumps(layer_figure(pl.DataFrame({"method_label": ["RTN"] * blocks, **columns}), "a model").spec)
    assert json.dumps({"values": ticks, "format": "d", "grid": False})[1:-1] in spec
