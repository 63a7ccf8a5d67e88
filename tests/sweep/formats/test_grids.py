"""Which linears are on which grid follows from the steps of a method, and is known as far as settings tell before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from methods.base import parse_method
from methods.blockwise import CompressionReport
from methods.outcome import LayerReport, Measurement
from methods.walk.job import NO_TOKENS
from sweep.formats.format import GridSpec
from sweep.formats.grids import (
    blocks_name,
    grids_by_linear,
    leaves_factors,
    planned_grids,
    unstorable_scales,
)

FOUR = {"method": "gptq", "bits": 4, "group_size": 32}
G32 = GridSpec(4, False, 32)


class Decoder(torch.nn.Module):
    """A model with two blocks, as far as names go."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_hidden_layers=2)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])


def report(*rows: tuple[int, int, str, str | None], groups: Any = None) -> CompressionReport:
    """Of (step, block, linear, fallback), with groups of inputs."""
    layers = [
        LayerReport.of(
            Measurement(rows=2, cols=2, relative_error=0.0, fallback=fallback),
            step=step,
            block=block,
            linear=linear,
            seconds=0.0,
        )
        for step, block, linear, fallback in rows
    ]
    return CompressionReport(layers, groups=groups or {})


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (FOUR, [G32]),
        ({"method": "sparsegpt"}, []),
        ({"method": "sparsegpt", "bits": 3, "sym": True}, [GridSpec(3, True, None)]),
        ({"method": "spqr"}, []),
        ({"method": "svd", "ratio": 0.5}, []),
        ([{"method": "wanda"}, FOUR], [G32]),
        ([FOUR, {"method": "wanda"}], [G32]),
        ([FOUR, {"method": "smoothquant"}], []),
        ([{"method": "smoothquant"}, FOUR], [G32]),
        ([FOUR, {"method": "rtn", "bits": 8, "linears": ["mlp.*"]}], [G32, GridSpec(8, False, None)]),
        ([FOUR, {"method": "rtn", "bits": 8}], [GridSpec(8, False, None)]),
    ],
)
def test_grids_are_planned_from_the_steps(entry: Any, expected: list[GridSpec]) -> None:
    assert planned_grids(parse_method(entry, "method")) == expected


def test_the_latest_step_that_gave_other_values_decides() -> None:
    model = Decoder()
    assert blocks_name(model) == "layers"
    method = parse_method([FOUR, {"method": "wanda"}], "method")
    both = report((0, 0, "a", None), (0, 1, "a", None), (1, 0, "a", None))
    assert grids_by_linear(model, method, both) == {"layers.0.a": G32, "layers.1.a": G32}
    method = parse_method([FOUR, {"method": "sparsegpt"}], "method")
    assert grids_by_linear(model, method, both) == {"layers.1.a": G32}


def test_linears_that_no_token_reached_keep_what_they_had() -> None:
    method = parse_method([FOUR, {"method": "sparsegpt"}], "method")
    found = report((0, 0, "a", NO_TOKENS), (0, 1, "a", None), (1, 1, "a", NO_TOKENS))
    assert grids_by_linear(Decoder(), method, found) == {"layers.1.a": G32}


@pytest.mark.parametrize(
    ("scales", "dtype", "storable"),
    [
        ("float32", "float32", True),
        ("float16", "float32", True),
        ("bfloat16", "bfloat16", True),
        ("float32", "bfloat16", False),
        ("float16", "bfloat16", False),
    ],
)
def test_scales_must_be_numbers_of_the_models_type(scales: str, dtype: str, storable: bool) -> None:
    reason = unstorable_scales(parse_method({**FOUR, "scale_dtype": scales}, "method"), dtype)
    assert (reason is None) == storable
    assert storable or f"measure it with scale_dtype: {dtype}" in (reason or "")


def test_grids_in_an_order_of_their_own_are_of_another_kind() -> None:
    for entry, scattered in [
        ({**FOUR, "static_groups": False}, True),
        ({**FOUR, "fresh_group_stats": True}, True),
        (FOUR, False),
        ({**FOUR, "static_groups": False, "act_order": False}, False),
        ({"method": "gptq", "bits": 4}, False),
    ]:
        (grid,) = planned_grids(parse_method(entry, "method"))
        assert grid.scattered == scattered
        assert grid.describe().endswith("act-order") == scattered


def test_groups_stay_with_the_grid_that_they_belong_to() -> None:
    scattered, kept = {**FOUR, "static_groups": False}, torch.tensor([1, 0], dtype=torch.int32)
    found = report((0, 0, "a", None), (1, 0, "a", None), groups={(0, "a"): kept})
    pruned = grids_by_linear(Decoder(), parse_method([scattered, {"method": "wanda"}], "method"), found)
    assert pruned["layers.0.a"].group_of is kept
    assert pruned["layers.0.a"].scattered
    again = grids_by_linear(Decoder(), parse_method([scattered, FOUR], "method"), found)
    assert again == {"layers.0.a": G32}
    assert again["layers.0.a"].group_of is None


def test_low_rank_methods_leave_factors() -> None:
    assert leaves_factors(parse_method({"method": "svd", "ratio": 0.5}, "method"))
    assert leaves_factors(parse_method([{"method": "joint_svd", "ratio": 0.5}, FOUR], "method"))
    assert not leaves_factors(parse_method(FOUR, "method"))
