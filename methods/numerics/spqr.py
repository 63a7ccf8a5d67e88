"""SpQR's grids and its column loop in plain torch: small groups, rounded statistics, weights that stay outliers.

`spqr_block` is the twin of the kernel in `methods/kernels/spqr.py`. The hard case is the leave-one-out search: only
dropping the smallest or the largest weight of a group changes its grid, so three grids a row answer for all candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from methods.lazy import torch
from methods.numerics.blocks import ColumnBlock, push
from methods.numerics.grids import SCALE_BITS, ScaleDtype, as_stored, divide, stored_scale
from methods.outcome import Number

SMALLEST_SCALE = 1e-9
FINEST = 2.0**-15
OUTLIER_BITS = 32.0  # a 16-bit value and a 16-bit position


@dataclass(frozen=True)
class SpQRRule:
    """How SpQR fits and stores its grids; the settings of the same names are explained in `methods/spqr.py`."""

    bits: int
    group_size: int | None
    scale_bits: int | None = 3
    zero_bits: int | None = 3
    statistics_group: int = 16
    scale_dtype: ScaleDtype = "float32"
    simplified_outliers: bool = False
    round_zero: bool = False

    @property
    def levels(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    @property
    def bilevel(self) -> bool:
        """Whether scales or zero points are themselves quantized, in blocks of rows."""
        return self.scale_bits is not None or self.zero_bits is not None

    @property
    def quantized_zero_bits(self) -> int | None:
        """Bits of the zero points where they are quantized themselves: integer ones only if that saves something."""
        return None if self.zero_bits is None or (self.round_zero and self.zero_bits >= self.bits) else self.zero_bits

    def stored_bits(self, cols: int, outlier_share: Number) -> Number:
        """Stored bits per weight: codes, first- and second-level grids, outliers (row pointers are not counted)."""
        group = self.group_size or cols
        number = SCALE_BITS[self.scale_dtype]
        first = sum(bits or number for bits in (self.scale_bits, self.zero_bits))
        second = sum(2 * number for bits in (self.scale_bits, self.zero_bits) if bits is not None)
        return self.bits + first / group + second / (group * self.statistics_group) + OUTLIER_BITS * outlier_share


@dataclass(frozen=True)
class RealGrid:
    """SpQR's dialect: the zero point is a real number and zero need not be a level. `scale`, `zero`: [rows]."""

    scale: torch.Tensor
    zero: torch.Tensor
    levels: int


@dataclass(frozen=True)
class RoundedStatistics:
    """Scales or zero points [rows] as they are stored: a code each, and a grid for every block of rows [blocks]."""

    codes: torch.Tensor
    grid: RealGrid

    def values(self) -> torch.Tensor:
        """What the codes stand for, [rows]."""
        blocks = self.codes.unflatten(0, (len(self.grid.scale), -1)).T
        return (self.grid.scale.clamp_min(SMALLEST_SCALE) * (blocks - self.grid.zero)).T.flatten()


def fit_group(rule: SpQRRule, group: torch.Tensor, diagonal: torch.Tensor, threshold: torch.Tensor | None) -> RealGrid:
    """The grid of every row for one group [n, rows], fitted without likely outliers."""
    levels = rule.levels
    if threshold is not None and not rule.simplified_outliers and group.shape[0] > 1:
        likely = leave_one_out_gain(group, diagonal, levels) > threshold
        stay = (~likely).to(group.dtype)
        mean = (group * stay).sum(0) / stay.sum(0).clamp_min(1)
        group = torch.where(likely, mean, group)
    grid = real_grid(group.amin(0), group.amax(0), levels, rule.scale_dtype)
    if rule.round_zero:
        grid = RealGrid(grid.scale, torch.round(grid.zero), levels)
    return grid


def rounded_grid(rule: SpQRRule, grid: RealGrid) -> RealGrid:
    """A fitted grid whose scales and zero points are themselves quantized, as far as the rule says so."""
    scale, zero = grid.scale, grid.zero
    if rule.scale_bits is not None:
        scale = round_statistics(scale, rule.scale_bits, rule.statistics_group, rule.scale_dtype).values()
    if rule.quantized_zero_bits is not None:
        zero = round_statistics(zero, rule.quantized_zero_bits, rule.statistics_group, rule.scale_dtype).values()
    return RealGrid(scale, zero, grid.levels)


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
    return grid.scale.clamp_min(SMALLEST_SCALE) * (nearest_codes(weights, grid) - grid.zero)


def nearest_codes(weights: torch.Tensor, grid: RealGrid) -> torch.Tensor:
    """The codes of the nearest grid values, as floats."""
    scale = grid.scale.clamp_min(SMALLEST_SCALE)
    return torch.clamp(torch.round(weights / scale + grid.zero), 0, grid.levels)


def round_statistics(values: torch.Tensor, bits: int, block: int, dtype: ScaleDtype) -> RoundedStatistics:
    """Scales or zero points [rows], rounded to `bits` in blocks of consecutive rows on grids stored as `dtype`."""
    blocks = values.unflatten(0, (-1, block)).T  # [block, rows / block]
    grid = real_grid(blocks.amin(0), blocks.amax(0), 2**bits - 1, dtype)
    return RoundedStatistics(nearest_codes(blocks, grid).T.flatten(), grid)


def outlier_thresholds(
    columns: torch.Tensor, diagonal: torch.Tensor, rows: Sequence[int], share: float
) -> torch.Tensor:
    """τ of every row [rows] of `columns` [cols, rows]: `share` of the mean over inputs of Var(W_j) / U_jj².

    Each of the stacked matrices, of so many `rows`, has its own; `diagonal` [cols] is U_jj.
    """
    squares = diagonal.square()
    units = [
        ((part.var(1) if part.shape[1] > 1 else torch.zeros_like(squares)) / squares).mean()
        for part in columns.split(list(rows), dim=1)
    ]
    return torch.cat([(share * u).expand(r) for u, r in zip(units, rows, strict=True)])


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
    rule: SpQRRule,
    block: ColumnBlock,
    threshold: torch.Tensor | None,
    keep: torch.Tensor | None,
    outliers: torch.Tensor,
    fitted: torch.Tensor,
) -> torch.Tensor:
    """SpQR on one block of whole groups; plain torch: the twin of the kernel of the same name.

    `threshold` [rows] is the outlier threshold τ, `keep` [n, rows] marks weights that were not pruned, and outliers are
    marked in `outliers` [n, rows], false before. Scales and zero points as they were fitted are put into `fitted`
    [2, groups, rows]. Returns the errors e = (w − ŵ) / U_ii, [n, rows].
    """
    errors = torch.empty_like(block.weights)
    group = rule.group_size or errors.shape[0]
    for first in range(0, errors.shape[0], group):
        part = slice(first, first + group)
        inner = block.part(part)
        grid = fit_group(rule, inner.weights, inner.upper.diagonal(), threshold)
        fitted[0, first // group], fitted[1, first // group] = grid.scale, grid.zero
        grid = rounded_grid(rule, grid)
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
