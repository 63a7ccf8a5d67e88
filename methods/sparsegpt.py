"""SparseGPT (Frantar & Alistarh 2023, arXiv:2301.00774): prune one input at a time, the later ones make up for it.

The mask of a block of 128 columns is chosen once, from weights already updated by earlier blocks, by the smallest
(w / U_jj)² over all rows of the block; with a pattern, in each row and group of m columns when the group is reached.
With `bits` the weights that stay are quantized in the same pass, on one grid a row (or group) fitted on the dense
weights. As in the reference code, all scores up to the threshold go, which is one weight per block more than the share
(not with OWL, which has a mean to keep).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from calib.settings import settings
from methods.base import register
from methods.families.columnwise import ColumnMethod, split_columns, stack_columns
from methods.families.pruning import PruningMethod
from methods.inputs.hessian import Hessian
from methods.lazy import torch
from methods.numerics.factor import Factor, FactorSettings
from methods.numerics.grids import GridRule, ScaleDtype, SymRule, check_group_size, describe_rule
from methods.numerics.solvers import fitted_grids, prune_columns
from methods.outcome import HALF_PRECISION_BITS, CompressedWeight


@register("sparsegpt")
@settings
class SparseGPT(PruningMethod[Hessian], ColumnMethod):
    """percdamp: damping as a share of the mean diagonal. block_size: columns that share a mask decision.

    bits, group_size, sym, sym_rule, scale_dtype: quantize what stays on grids such as GPTQ's (null bits: keep it as it
    is; with bits, a null scale_dtype is float32).
    """

    later: ClassVar[Mapping[str, Any]] = {"sym_rule": "usual", "scale_dtype": None}

    percdamp: float = Field(default=0.01, ge=0)
    block_size: int = Field(default=128, ge=1)
    bits: int | None = Field(default=None, ge=2, le=8)
    group_size: int | None = Field(default=None, ge=1)
    sym: bool = False
    sym_rule: SymRule = "usual"
    scale_dtype: ScaleDtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kept_of is not None and self.block_size % self.kept_of[1]:
            raise ValueError(
                f"block_size: expected a multiple of {self.kept_of[1]} for pattern {self.pattern},"
                f" got {self.block_size}"
            )
        if self.sym_rule != "usual" and not self.sym:
            raise ValueError(f"sym_rule: {self.sym_rule} needs sym: true")
        if self.bits is None and (self.group_size is not None or self.sym):
            raise ValueError("bits: required when group_size or sym is given")
        if self.bits is None and self.scale_dtype is not None:
            raise ValueError("bits: required when scale_dtype is given")
        if self.bits is not None and self.scale_dtype is None:
            object.__setattr__(self, "scale_dtype", "float32")

    @property
    def rule(self) -> GridRule | None:
        """How grids are fitted and stored; None when what stays is not quantized."""
        if self.bits is None or self.scale_dtype is None:
            return None
        return GridRule(self.bits, sym=self.sym, sym_rule=self.sym_rule, scale_dtype=self.scale_dtype)

    def describe(self) -> str:
        label = f"SparseGPT {self.amount}"
        return label if self.rule is None else f"{label} {describe_rule(self.rule, self.group_size)}"

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
        if self.rule is not None:
            bits = self.rule.stored_bits(cols, self.group_size)
            grids = fitted_grids(columns, self.rule, self.group_size)
        columns[factor.dead] = 0
        values, loss = prune_columns(
            columns,
            factor.upper,
            self.block_size,
            share=self.share,
            exact=self.allocation == "owl",
            kept_of=self.kept_of,
            segments=[weight.shape[0] for weight in weights],
            grids=grids,
            pruned=pruned,
        )
        return split_columns(values, loss, weights, bits, self.scale_dtype)
