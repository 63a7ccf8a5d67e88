"""SpQR (Dettmers et al. 2023, arXiv:2306.03078): small groups, quantized grids, and a few weights kept as outliers.

Inputs are taken in the order of falling Hessian diagonal, in groups of 16 that share a grid per row. Weights whose
removal from the fit lowers the row's error by more than a threshold τ do not shape the grid; scales and zero points are
themselves quantized in blocks of 16 rows (bilevel); a weight whose own error exceeds τ is stored in full precision.
The hard case is the leave-one-out search: only dropping the smallest or the largest weight of a group changes its
grid, so three grids a row answer for all sixteen candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from calib.settings import SettingsError, settings
from methods.base import register
from methods.families.columnwise import ColumnMethod, split_columns, stack_columns
from methods.lazy import torch
from methods.numerics.factor import Factor, FactorSettings
from methods.numerics.grids import ScaleDtype, check_group_size
from methods.numerics.solvers import spqr_columns
from methods.numerics.spqr import SpQRRule, outlier_thresholds
from methods.outcome import CompressedWeight, FittedGroups

SMALLEST_BILEVEL = 4  # weights of a group whose grid is rounded itself


@register("spqr")
@settings
class SpQR(ColumnMethod):
    """bits: width of a code. group_size: consecutive inputs (in the order of `permutation`) that share a grid.

    scale_bits, zero_bits: widths of the quantized scales and zero points (null: not quantized), in blocks of
    `statistics_group` rows. scale_dtype: the type in which all other scales and zero points are stored and counted
    (16 bits in the paper; the published code computes with float32). outlier_threshold: τ as a share of the mean over
    inputs of Var(W_j) / U_jj²; null keeps no outlier. simplified_outliers: skip the leave-one-out search, every weight
    shapes its grid. round_zero: integer zero points (quantized only when zero_bits is below bits).
    """

    version: ClassVar[int] = 2

    bits: int = Field(default=4, ge=2, le=8)
    group_size: int | None = Field(default=16, ge=2)
    scale_bits: int | None = Field(default=3, ge=2, le=8)
    zero_bits: int | None = Field(default=3, ge=2, le=8)
    statistics_group: int = Field(default=16, ge=2)
    scale_dtype: ScaleDtype = "float32"
    outlier_threshold: float | None = Field(default=0.2, gt=0)
    simplified_outliers: bool = False
    round_zero: bool = False
    permutation: Literal["act_order", "identity"] = "act_order"
    percdamp: float = Field(default=1.0, ge=0)
    block_size: int = Field(default=128, ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule.bilevel and self.group_size is not None and self.group_size < SMALLEST_BILEVEL:
            raise ValueError(  # both weights are the ends of a grid that is rounded itself: errors above one
                f"group_size: {self.group_size} is too small for rounded grids; take at least {SMALLEST_BILEVEL}, or "
                "null scale_bits and zero_bits"
            )

    def describe(self) -> str:
        parts = [f"SpQR {self.bits}-bit"]
        if self.group_size != 16:
            parts.append(f"g{self.group_size}" if self.group_size else "row")
        if self.outlier_threshold != 0.2:
            parts.append("no outliers" if self.outlier_threshold is None else f"τ {self.outlier_threshold:g}")
        if self.permutation == "identity":
            parts.append("unsorted")
        return " ".join(parts)

    def nominal(self) -> dict[str, Any]:
        return {"bits": float(self.bits), "sparsity": None, "pattern": None}

    def check_shape(self, rows: int, cols: int, where: str) -> None:
        check_group_size(self.group_size, cols, where)
        if self.rule.bilevel and rows % self.statistics_group:
            raise SettingsError(
                f"statistics_group: {self.statistics_group} does not divide the {rows} outputs of {where}; "
                "use a divisor, or null scale_bits and zero_bits"
            )

    @property
    def rule(self) -> SpQRRule:
        """How grids are fitted and stored."""
        return SpQRRule(
            self.bits,
            self.group_size,
            scale_bits=self.scale_bits,
            zero_bits=self.zero_bits,
            statistics_group=self.statistics_group,
            scale_dtype=self.scale_dtype,
            simplified_outliers=self.simplified_outliers,
            round_zero=self.round_zero,
        )

    @property
    def factor_settings(self) -> FactorSettings:
        return FactorSettings(self.percdamp, act_order=self.permutation == "act_order", damp_dead=False)

    def solve(
        self, weights: Sequence[torch.Tensor], factor: Factor, pruned: torch.Tensor | None
    ) -> list[CompressedWeight]:
        columns = stack_columns(weights)
        columns[factor.dead] = 0
        columns = factor.ordered(columns)
        keep = None if pruned is None else ~factor.ordered(pruned)
        rows = [weight.shape[0] for weight in weights]
        threshold = None
        if self.outlier_threshold is not None:
            threshold = outlier_thresholds(columns, factor.upper.diagonal(), rows, self.outlier_threshold)
        values, outliers, loss, fitted = spqr_columns(
            columns, factor.upper, self.rule, self.block_size, threshold=threshold, keep=keep
        )
        values = factor.restored(values)
        results = split_columns(values, loss, weights, self.bits, self.scale_dtype)
        shares = [out.sum().double() / out.numel() for out in outliers.split(rows, 1)]
        grids = [FittedGroups(part[0], part[1], factor.order) for part in fitted.split(rows, 2)]
        return [
            replace(result, outlier_share=share, bits=self.rule.stored_bits(columns.shape[0], share), fitted=grid)
            for result, share, grid in zip(results, shares, grids, strict=True)
        ]
