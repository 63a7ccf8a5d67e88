"""Round to nearest: every weight takes the nearest value of its grid, without calibration data.

The grids are those of GPTQ (same dialect, group size, symmetry), so the difference to GPTQ is calibration alone, and
its spread over calibration sets is zero by construction: the null control of the quantizers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from calib.settings import settings
from methods.base import WeightMethod, register
from methods.families.grids import GridMethod
from methods.lazy import torch
from methods.numerics.grids import GridRule, quantize_groups
from methods.outcome import CompressedWeight


@register("rtn")
@settings
class RTN(GridMethod, WeightMethod[None]):
    """mse: search for the range with the least error instead of minimum to maximum."""

    version: ClassVar[int] = 2

    mse: bool = False

    @property
    def rule(self) -> GridRule:
        return replace(super().rule, mse=self.mse)

    def describe(self) -> str:
        return f"RTN {self.describe_grid()}"

    def compress_weight(
        self, weight: torch.Tensor, statistic: None, *, pruned: torch.Tensor | None = None
    ) -> CompressedWeight:
        rounded = quantize_groups(weight, self.rule, self.group_size)
        if pruned is not None:
            rounded = rounded.masked_fill(pruned, 0)
        rounded = rounded + 0.0  # no negative zeros
        bits = self.rule.stored_bits(weight.shape[1], self.group_size)
        return CompressedWeight(rounded, bits=bits, scale_dtype=self.scale_dtype)
