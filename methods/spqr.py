"""SpQR (Dettmers et al. 2023, arXiv:2306.03078): small groups, quantized grids, and a few weights kept as outliers.

Inputs are taken in the order of falling Hessian diagonal, in groups of 16 that share a grid per row. Weights whose
removal from the fit lowers the row's error by more than a threshold τ do not shape the grid; scales and zero points are
themselves quantized in blocks of 16 rows (bilevel); a weight whose own error exceeds τ is stored in full precision.
The hard case is the leave-one-out search: only dropping the smallest or the largest weight of a group changes its
grid, so three grids a row answer for all sixteen candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from calib.settings import SettingsError, settings
from methods.base import register
from methods.families.columnwise import ColumnMethod, split_columns, stack_columns
from methods.lazy import torch
from methods.numerics.backend import device_kernels
from methods.numerics.columns import ColumnBlock, blocks_of, column_blocks, push
from methods.numerics.factor import Factor, FactorSettings
from methods.numerics.grids import SCALE_BITS, ScaleDtype, as_stored, check_group_size, divide, stored_scale
from methods.outcome import CompressedWeight, Number

SMALLEST_SCALE = 1e-9
FINEST = 2.0**-15
OUTLIER_BITS = 32.0  # a 16-bit value and a 16-bit position
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
        if self.bilevel and self.group_size is not None and self.group_size < SMALLEST_BILEVEL:
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
        if self.bilevel and rows % self.statistics_group:
            raise SettingsError(
                f"statistics_group: {self.statistics_group} does not divide the {rows} outputs of {where}; "
                "use a divisor, or null scale_bits and zero_bits"
            )

    @property
    def bilevel(self) -> bool:
        """Whether scales or zero points are themselves quantized, in blocks of rows."""
        return self.scale_bits is not None or self.zero_bits is not None

    def stored_bits(self, cols: int, outlier_share: Number) -> Number:
        """Stored bits per weight: codes, first- and second-level grids, outliers (row pointers are not counted)."""
        group = self.group_size or cols
        number = SCALE_BITS[self.scale_dtype]
        first = sum(bits or number for bits in (self.scale_bits, self.zero_bits))
        second = sum(2 * number for bits in (self.scale_bits, self.zero_bits) if bits is not None)
        return self.bits + first / group + second / (group * self.statistics_group) + OUTLIER_BITS * outlier_share

    @property
    def factor_settings(self) -> FactorSettings:
        return FactorSettings(self.percdamp, self.permutation == "act_order", damp_dead=False)

    def solve(
        self, weights: Sequence[torch.Tensor], factor: Factor, pruned: torch.Tensor | None
    ) -> list[CompressedWeight]:
        columns = stack_columns(weights)
        columns[factor.dead] = 0
        columns = factor.ordered(columns)
        keep = None if pruned is None else ~factor.ordered(pruned)
        rows = [weight.shape[0] for weight in weights]
        threshold = self._thresholds(columns, factor.upper, rows)
        values, outliers, loss = self._solve(columns, factor.upper, threshold, keep)
        values = factor.restored(values)
        results = split_columns(values, loss, weights, self.bits, self.scale_dtype)
        shares = [out.sum().double() / out.numel() for out in outliers.split(rows, 1)]
        return [
            replace(result, outlier_share=share, bits=self.stored_bits(columns.shape[0], share))
            for result, share in zip(results, shares, strict=True)
        ]

    def _thresholds(self, columns: torch.Tensor, upper: torch.Tensor, rows: Sequence[int]) -> torch.Tensor | None:
        """τ of every row [rows]: each of the stacked matrices has its own."""
        if self.outlier_threshold is None:
            return None
        squares = upper.diagonal().square()
        units = [
            ((part.var(1) if part.shape[1] > 1 else torch.zeros_like(squares)) / squares).mean()
            for part in columns.split(list(rows), dim=1)
        ]
        return torch.cat([(self.outlier_threshold * u).expand(r) for u, r in zip(units, rows, strict=True)])

    def _solve(
        self, columns: torch.Tensor, upper: torch.Tensor, threshold: torch.Tensor | None, keep: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(values, outliers) [cols, rows] and the loss of every row; `columns` is used up."""
        cols = columns.shape[0]
        group = self.group_size or cols
        values, loss = torch.empty_like(columns), columns.new_zeros(columns.shape[1])
        outliers = torch.zeros_like(columns, dtype=torch.bool)
        kernels = device_kernels(columns, "spqr")
        solve = spqr_block if kernels is None else kernels.spqr_block
        bounds = column_blocks(cols, max(self.block_size // group, 1) * group, None)
        for block in blocks_of(columns, upper, values, loss, bounds):
            part = slice(block.start, block.stop)
            errors = solve(self, block, threshold, None if keep is None else keep[part], outliers[part])
            push(columns, upper, errors, block.start, block.stop)
        return values.add_(0.0), outliers, loss

    def fit(self, group: torch.Tensor, diagonal: torch.Tensor, threshold: torch.Tensor | None) -> RealGrid:
        """The grid of every row for one group [n, rows]: fitted without likely outliers, then itself quantized."""
        levels = 2**self.bits - 1
        if threshold is not None and not self.simplified_outliers and group.shape[0] > 1:
            likely = leave_one_out_gain(group, diagonal, levels) > threshold
            stay = (~likely).to(group.dtype)
            mean = (group * stay).sum(0) / stay.sum(0).clamp_min(1)
            group = torch.where(likely, mean, group)
        grid = real_grid(group.amin(0), group.amax(0), levels, self.scale_dtype)
        if self.round_zero:
            grid = RealGrid(grid.scale, torch.round(grid.zero), levels)
        scale, zero = grid.scale, grid.zero
        if self.scale_bits is not None:
            scale = quantize_statistics(scale, self.scale_bits, self.statistics_group, self.scale_dtype)
        if self.zero_bits is not None and (not self.round_zero or self.zero_bits < self.bits):
            zero = quantize_statistics(zero, self.zero_bits, self.statistics_group, self.scale_dtype)
        return RealGrid(scale, zero, levels)


@dataclass(frozen=True)
class RealGrid:
    """SpQR's dialect: the zero point is a real number and zero need not be a level. `scale`, `zero`: [rows]."""

    scale: torch.Tensor
    zero: torch.Tensor
    levels: int


def real_grid(low: torch.Tensor, high: torch.Tensor, levels: int, dtype: ScaleDtype = "float32") -> RealGrid:
    """The grid from `low` to `high`, its numbers as `dtype` stores them; where the two are equal, from −1 to 1.

    16-bit numbers cannot tell values apart that differ by less than FINEST of their size: steps are no smaller, so that
    the zero point stays a number that they hold.
    """
    constant = low == high
    low, high = torch.where(constant, -1.0, low), torch.where(constant, 1.0, high)
    scale = divide(high - low, levels)
    if dtype == "float32":
        return RealGrid(scale, -low / scale, levels)
    scale = torch.maximum(scale, torch.maximum(low.abs(), high.abs()) * FINEST)
    scale = stored_scale(scale, dtype)
    return RealGrid(scale, as_stored(-low / scale, dtype), levels)


def round_to(weights: torch.Tensor, grid: RealGrid) -> torch.Tensor:
    """Nearest grid values; the zero point is added before rounding."""
    scale = grid.scale.clamp_min(SMALLEST_SCALE)
    codes = torch.clamp(torch.round(weights / scale + grid.zero), 0, grid.levels)
    return scale * (codes - grid.zero)


def quantize_statistics(values: torch.Tensor, bits: int, block: int, dtype: ScaleDtype) -> torch.Tensor:
    """Scales or zero points [rows], rounded to `bits` in blocks of consecutive rows on grids stored as `dtype`."""
    blocks = values.unflatten(0, (-1, block)).T  # [block, rows / block]
    return round_to(blocks, real_grid(blocks.amin(0), blocks.amax(0), 2**bits - 1, dtype)).T.flatten()


def leave_one_out_gain(group: torch.Tensor, diagonal: torch.Tensor, levels: int) -> torch.Tensor:
    """How much the weighted error of a row falls when one weight of the group is kept out of grid and error.

    group [n, rows], diagonal of U [n]; returns [n, rows]. Leaving out a weight that is neither the only smallest nor
    the only largest leaves the grid as it is, so its gain is its own error.
    """
    ordered = torch.sort(group, dim=0, stable=True)
    low, high = ordered.values[0], ordered.values[-1]
    own = ((round_to(group, real_grid(low, high, levels)) - group) / diagonal[:, None]).square()
    total = own.sum(0)
    gain = own.clone()
    ends = (
        (ordered.indices[0], ordered.values[1], high),
        (ordered.indices[-1], low, ordered.values[-2]),
    )
    for index, lowest, highest in ends:
        errors = ((round_to(group, real_grid(lowest, highest, levels)) - group) / diagonal[:, None]).square()
        without = errors.scatter(0, index[None], 0.0).sum(0)
        gain.scatter_(0, index[None], (total - without)[None])
    return gain


def spqr_block(
    method: SpQR,
    block: ColumnBlock,
    threshold: torch.Tensor | None,
    keep: torch.Tensor | None,
    outliers: torch.Tensor,
) -> torch.Tensor:
    """SpQR on one block of whole groups; plain torch: the twin of the kernel of the same name.

    `threshold` [rows] is the outlier threshold τ, `keep` [n, rows] marks weights that were not pruned, and outliers are
    marked in `outliers` [n, rows], false before. Returns the errors e = (w − ŵ) / U_ii, [n, rows].
    """
    errors = torch.empty_like(block.weights)
    group = method.group_size or errors.shape[0]
    for first in range(0, errors.shape[0], group):
        part = slice(first, first + group)
        inner = block.part(part)
        grid = method.fit(inner.weights, inner.upper.diagonal(), threshold)
        errors[part] = spqr_group(inner, grid, threshold, None if keep is None else keep[part], outliers[part])
        push(block.weights, block.upper, errors[part], first, first + group)
    block.loss.add_(errors.square().sum(0))
    return errors


def spqr_group(
    group: ColumnBlock,
    grid: RealGrid,
    threshold: torch.Tensor | None,
    keep: torch.Tensor | None,
    outliers: torch.Tensor,
) -> torch.Tensor:
    """SpQR on one group of n columns with a grid; see `spqr_block`. A weight with e² above τ keeps its value."""
    errors = torch.empty_like(group.weights)
    limits, spread = group.upper.diagonal(), group.spread
    scale = grid.scale.clamp_min(SMALLEST_SCALE)
    for i in range(errors.shape[0]):
        w, q, e = group.weights[i], group.values[i], errors[i]
        torch.div(w, scale, out=q).add_(grid.zero).round_().clamp_(0, grid.levels).sub_(grid.zero).mul_(scale)
        if keep is not None:
            q.mul_(keep[i])
        torch.sub(w, q, out=e)
        if threshold is not None:
            outlier = torch.gt((e / limits[i]).square_(), threshold, out=outliers[i])
            if keep is not None:
                outlier.logical_and_(keep[i])
            torch.where(outlier, w, q, out=q)
            e.masked_fill_(outlier, 0.0)
        group.weights.addr_(spread[i], e)
    return errors.div_(limits[:, None])
