"""Codes found on the grids that the solver handed over give its weights to the bit; the rest are its own outliers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from methods.base import compress_linear, get_method
from methods.numerics import spqr_codes as module
from methods.numerics.spqr_codes import spqr_codes

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "3-bit": {"bits": 3},
    "8-bit": {"bits": 8},
    "16-bit numbers": {"scale_dtype": "float16"},
    "grids that are not rounded": {"scale_bits": None, "zero_bits": None, "scale_dtype": "bfloat16"},
    "scales alone": {"zero_bits": None},
    "rows in their order": {"permutation": "identity", "group_size": None},
    "whole zero points": {"round_zero": True},
    "no outliers": {"outlier_threshold": None},
}


def compressed(settings: dict[str, Any], dtype: torch.dtype) -> Any:
    """(method, what it makes of a random weight [64, 96])."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 96, generator=generator) + 0.2
    inputs = torch.randn(4, 32, 96, generator=generator) * torch.linspace(0.1, 3, 96)
    method = get_method("spqr", **settings)
    return method, compress_linear(method, weight.to(dtype), inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_codes_give_the_weight_and_outliers_are_those_of_the_solver(
    settings: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 96 * 10)  # rows in several parts, the last one shorter
    method, found = compressed(settings, dtype)
    codes = spqr_codes(found.weight, found.compressed.fitted, method.rule)
    assert torch.equal(codes.weight(), found.weight)
    assert codes.weight().dtype == dtype
    assert int(codes.codes.max()) < 2**method.bits
    assert len(codes.places) <= round(found.report.outlier_share * found.weight.numel())
    if settings.get("outlier_threshold", 0.2) is None:
        assert not len(codes.places)


def test_weights_of_other_grids_become_outliers_and_nothing_else_changes() -> None:
    method, found = compressed({}, torch.bfloat16)
    fitted = found.compressed.fitted
    other = replace(fitted, scale=fitted.scale * 1.1)
    codes = spqr_codes(found.weight, other, method.rule)
    assert torch.equal(codes.weight(), found.weight)
    assert len(codes.places) > found.weight.numel() / 2
