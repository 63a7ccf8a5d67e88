"""SparseGPT (Frantar & Alistarh 2023, arXiv:2301.00774): prune one input at a time, the later ones make up for it.

The mask of a block of 128 columns is chosen once, from weights already updated by earlier blocks, by the smallest
(w / U_jj)² over all rows of the block; with a pattern, in each row and group of m columns when the group is reached.
With `bits` the weights that stay are quantized in the same pass, on one grid a row (or group) fitted on the dense
weights. As in the reference code, all scores up to the threshold go, which is one weight per block more than the share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from calib.settings import settings
from methods.base import HALF_PRECISION_BITS, CompressedWeight, register
from methods.column_methods import ColumnMethod, split_columns, stack_columns
from methods.columns import group_grids, prune_columns, row_grids
from methods.lazy import torch
from methods.masks import PruningMethod
from methods.quantizer import check_group_size, grid_bits
from methods.solver import Factor, FactorSettings


@register("sparsegpt")
@settings
class SparseGPT(PruningMethod, ColumnMethod):
    """percdamp: damping as a share of the mean diagonal. block_size: columns that share a mask decision.

    bits, group_size, sym: quantize what stays (null bits: keep it as it is).
    """

    percdamp: float = Field(default=0.01, ge=0)
    block_size: int = Field(default=128, ge=1)
    bits: int | None = Field(default=None, ge=2, le=8)
    group_size: int | None = Field(default=None, ge=1)
    sym: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kept_of is not None and self.block_size % self.kept_of[1]:
            raise ValueError(
                f"block_size: expected a multiple of {self.kept_of[1]} for pattern {self.pattern},"
                f" got {self.block_size}"
            )
        if self.bits is None and (self.group_size is not None or self.sym):
            raise ValueError("bits: required when group_size or sym is given")

    def describe(self) -> str:
        label = f"SparseGPT {self.amount}"
        if self.bits is not None:
            label += f" {self.bits}-bit" + (f" g{self.group_size}" if self.group_size else "") + " sym" * self.sym
        return label

    def nominal(self) -> dict[str, Any]:
        return super().nominal() | {"bits": float(self.bits) if self.bits is not None else None}

    def check_shape(self, rows: int, cols: int, where: str) -> None:
        super().check_shape(rows, cols, where)
        check_group_size(self.group_size, cols, where)

    @property
    def factor_settings(self) -> FactorSettings:
        return FactorSettings(self.percdamp)

    def solve(
        self, weights: Sequence[torch.Tensor], factor: Factor, pruned: torch.Tensor | None
    ) -> list[CompressedWeight]:
        columns = stack_columns(weights)
        cols = columns.shape[0]
        grids, bits = None, HALF_PRECISION_BITS
        if self.bits is not None:
            bits = grid_bits(self.bits, cols, self.group_size, self.sym)
            if self.group_size is None:
                grids = row_grids(columns, self.bits, sym=self.sym, mse=False)
            else:
                grids = group_grids(columns, self.bits, self.group_size, sym=self.sym, mse=False)
        columns[factor.dead] = 0
        values, loss = prune_columns(
            columns,
            factor.upper,
            self.block_size,
            share=self.share,
            kept_of=self.kept_of,
            segments=[weight.shape[0] for weight in weights],
            grids=grids,
            pruned=pruned,
        )
        return split_columns(values, loss, weights, bits)
