"""What RTN, GPTQ and AWQ have in common: the settings of an integer grid, which are told apart by nothing else.

`methods/numerics/grids.py` fits the grids by the rule that these settings make.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from calib.settings import settings
from methods.base import Method
from methods.numerics.grids import GridRule, ScaleDtype, SymRule, check_group_size, describe_rule


@settings
class GridMethod(Method):
    """Settings of every integer grid.

    bits: width of a code. group_size: consecutive inputs that share a grid; null: one grid a row. sym: the zero point
    lies in the middle of the codes, and the range reaches as far on both sides. sym_rule: `reference` is what the GPTQ
    code does for weights of which none is negative: it fits half of the range, so that they are clipped to 7/15 of the
    largest at 4 bits. scale_dtype: the type in which scales are stored and counted; they are rounded to it before codes
    are chosen. Kernels and checkpoints hold 16-bit scales, the published code computes with float32.
    """

    bits: int = Field(default=4, ge=2, le=8)
    group_size: int | None = Field(default=None, ge=1)
    sym: bool = False
    sym_rule: SymRule = "usual"
    scale_dtype: ScaleDtype = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sym_rule != "usual" and not self.sym:
            raise ValueError(f"sym_rule: {self.sym_rule} needs sym: true")

    @property
    def rule(self) -> GridRule:
        """How the grids are fitted and stored."""
        return GridRule(self.bits, sym=self.sym, sym_rule=self.sym_rule, scale_dtype=self.scale_dtype)

    def nominal(self) -> dict[str, Any]:
        return {"bits": float(self.bits), "sparsity": None, "pattern": None}

    def check_shape(self, rows: int, cols: int, where: str) -> None:
        check_group_size(self.group_size, cols, where)

    def describe_grid(self) -> str:
        """`4-bit g128 sym`."""
        return describe_rule(self.rule, self.group_size)
