"""Codes of a small weight, for the formats that store them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from methods.numerics.codes import Codes, find_codes
from methods.numerics.grids import GridRule, quantize_groups


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_codes() -> Callable[..., Codes]:
    """The codes of a random weight [64, 96] on grids of these settings."""

    def make(bits: int, *, sym: bool, group_size: int | None, dtype: str = "float16") -> Codes:
        generator = torch.Generator().manual_seed(bits)
        weight = torch.randn(64, 96, generator=generator) + 0.3
        rule = GridRule(bits, sym=sym, scale_dtype=dtype)  # type: ignore[arg-type]
        rounded = quantize_groups(weight, rule, group_size).to(getattr(torch, dtype))
        return find_codes(rounded, bits, sym=sym, group_size=group_size)

    return make


def scatter(codes: Codes) -> Codes:
    """The codes of the same columns in another order, in which those of a group do not stand together."""
    order = torch.randperm(codes.codes.shape[1], generator=torch.Generator().manual_seed(0))
    return replace(codes, codes=codes.codes[:, order], group_of=(order // codes.group_size).to(torch.int32))
