"""HQQ (Badri & Shaji 2023, half-quadratic quantization): grids whose zero points are fitted to the weights alone.

Scale and zero point start at minimum and maximum of a group. Then Σ|w−ŵ|^p, p = 0.7, is brought down by turns: errors
are shrunk, so that large ones count as outliers, and the zero point becomes the real number that fits the rest best;
the scale stays. Rounds end as soon as the mean error of the matrix rises, as in the authors' package, whose default
solver keeps β at its start. The hard case is what is stored: scale and zero point are real numbers of 16 bits there, so
zero is no level, and pruned weights would not stay zero.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from pydantic import Field

from calib.settings import settings
from methods.base import WeightMethod, register
from methods.lazy import torch
from methods.numerics.grids import SCALE_BITS, ScaleDtype, as_stored, check_group_size
from methods.outcome import CompressedWeight, CompressionError

NORM = 0.7  # p of the objective (the authors' package)
BETA = 10.0  # how fast the shrinking lets errors go (the authors' package)
FLAT = 1e-4  # range of a group that gets a step of one (the authors' package)
MOST_STEPS = 2e4  # steps in a unit: more are no half-precision number that can be inverted (the authors' package)


@register("hqq")
@settings
class HQQ(WeightMethod[None]):
    """bits: width of a code. group_size: consecutive inputs that share a scale and a zero point; null: all of a row.

    iterations: rounds of the solver at most; 0 leaves minimum and maximum. scale_dtype: the type in which scales and
    zero points are stored and counted.
    """

    keeps_zeros: ClassVar[bool] = False

    bits: int = Field(default=4, ge=1, le=8)
    group_size: int | None = Field(default=64, ge=1)
    iterations: int = Field(default=20, ge=0)
    scale_dtype: ScaleDtype = "float16"

    def nominal(self) -> dict[str, Any]:
        return {"bits": float(self.bits), "sparsity": None, "pattern": None}

    def check_shape(self, rows: int, cols: int, where: str) -> None:
        check_group_size(self.group_size, cols, where)

    def describe(self) -> str:
        group = "" if self.group_size is None else f" g{self.group_size}"
        rounds = "" if self.iterations == 20 else f" {self.iterations} rounds"
        return f"HQQ {self.bits}-bit{group}{rounds}"

    def compress_weight(
        self, weight: torch.Tensor, statistic: None, *, pruned: torch.Tensor | None = None
    ) -> CompressedWeight:
        size = self.group_size or weight.shape[1]
        groups = weight.float().reshape(-1, size)
        steps, zero = half_quadratic(groups, 2**self.bits - 1, self.iterations)
        codes = torch.round(groups * steps + zero).clamp_(0, 2**self.bits - 1)
        scale = as_stored(1 / steps, self.scale_dtype)
        rounded = ((codes - _stored_zero(zero, self.scale_dtype)) * scale).reshape(weight.shape)
        bits = self.bits + 2 * SCALE_BITS[self.scale_dtype] / size
        return CompressedWeight(rounded, bits=bits, scale_dtype=self.scale_dtype)


def _stored_zero(zero: torch.Tensor, dtype: ScaleDtype) -> torch.Tensor:
    """Zero points as stored. Raises CompressionError where finite ones are beyond the type."""
    stored, largest = as_stored(zero, dtype), float(zero.abs().max())
    if math.isfinite(largest) and bool(stored.isinf().any()):
        raise CompressionError(
            f"groups of nearly equal weights have zero points of up to {largest:.3g}, and {dtype} ends at "
            f"{torch.finfo(getattr(torch, dtype)).max:,.0f}: use scale_dtype: bfloat16, or float32"
        )
    return stored


def half_quadratic(groups: torch.Tensor, levels: int, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(steps in a unit of weight, zero points), float32 [n, 1], of `groups` [n, size] with codes 0 … `levels`."""
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    width = high - low
    steps = torch.where(width <= FLAT, 1.0, levels / width).clamp_max(MOST_STEPS)
    zero = -low * steps
    least = torch.inf
    for _ in range(iterations):
        codes = torch.round(groups * steps + zero).clamp_(0, levels)
        error = groups - (codes - zero) / steps
        # the original takes the zero point of the round that ends it as well
        zero = (codes - (groups - _shrink(error)) * steps).mean(1, keepdim=True)
        mean = float(error.abs().mean())
        if mean >= least:
            break
        least = mean
    return steps, zero


def _shrink(error: torch.Tensor) -> torch.Tensor:
    """sign(e) · max(|e| − |e|^(p−1) / β, 0): what is left of errors when small ones are let go."""
    size = error.abs()
    return (size - size.pow(NORM - 1) / BETA).clamp_min_(0) * error.sign()
