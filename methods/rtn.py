"""Round to nearest: every weight takes the nearest value of its grid, without calibration data.

The grids are those of GPTQ (same dialect, group size, symmetry), so the difference to GPTQ is calibration alone, and
its spread over calibration sets is zero by construction: the null control of the quantizers.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from calib.settings import settings
from methods.base import CompressedWeight, WeightMethod, register
from methods.lazy import torch
from methods.quantizer import check_group_size, grid_bits, quantize_groups
from methods.statistics import Statistic


@settings
class GridMethod(WeightMethod):
    """Settings of every integer grid.

    bits: width of a code. group_size: consecutive inputs that share a grid; null: one grid a row. sym: the zero point
    lies in the middle of the codes. mse: search for the range with the least error instead of minimum to maximum.
    """

    bits: int = Field(default=4, ge=2, le=8)
    group_size: int | None = Field(default=None, ge=1)
    sym: bool = False
    mse: bool = False

    def nominal(self) -> dict[str, Any]:
        return {"bits": float(self.bits), "sparsity": None, "pattern": None}

    def check_shape(self, rows: int, cols: int, where: str) -> None:
        check_group_size(self.group_size, cols, where)

    def describe_grid(self) -> str:
        """`4-bit g128 sym`."""
        parts = [f"{self.bits}-bit"]
        if self.group_size is not None:
            parts.append(f"g{self.group_size}")
        return " ".join(parts + ["sym"] * self.sym + ["mse"] * self.mse)

    def stored_bits(self, cols: int) -> float:
        return grid_bits(self.bits, cols, self.group_size, self.sym)


@register("rtn")
@settings
class RTN(GridMethod):
    """Round to nearest."""

    needs: ClassVar[str] = "none"

    def describe(self) -> str:
        return f"RTN {self.describe_grid()}"

    def compress_weight(
        self, weight: torch.Tensor, statistic: Statistic | None, *, pruned: torch.Tensor | None = None
    ) -> CompressedWeight:
        rounded = quantize_groups(weight, self.bits, self.group_size, sym=self.sym, mse=self.mse)
        if pruned is not None:
            rounded = rounded.masked_fill(pruned, 0)
        return CompressedWeight(rounded + 0.0, bits=self.stored_bits(weight.shape[1]))  # + 0.0: no negative zeros
