"""The column loops of GPTQ and SparseGPT: fix one input's weights, push the error onto the inputs still to come.

Everything here is transposed, [cols, rows], so that one column of the weight is contiguous; rows are independent and
several linears that share an input are stacked along them. A block of columns is solved on its own (`quantize_block`,
`prune_block`), then its errors reach the later columns in one product. The block functions below are the plain torch
version; on a CUDA device the kernels of `methods/kernels/columns.py` replace them one for one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from methods.kernels.dispatch import device_kernels
from methods.lazy import torch
from methods.masks import at_most_threshold, smallest_of_first_axis
from methods.quantizer import Grid, fit_grid
from methods.solver import full_precision


@dataclass(frozen=True)
class GridTable:
    """The grids of all columns: `scale`, `low`, `high` are [groups, rows], `group_of` [cols] names a column's group.

    `low` and `high` bound the integer that multiplies the scale (code minus zero point).
    """

    scale: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    group_of: torch.Tensor

    def columns(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(scale, low, high), each [stop − start, rows]."""
        if self.scale.shape[0] == 1:  # one grid a row: a view, no copy
            count = stop - start
            return self.scale.expand(count, -1), self.low.expand(count, -1), self.high.expand(count, -1)
        groups = self.group_of[start:stop]
        return self.scale[groups], self.low[groups], self.high[groups]


@dataclass(frozen=True)
class GroupWindow:
    """The grids of consecutive groups of `size` columns, as in a `GridTable`, from group number `first` on."""

    first: int
    size: int
    scale: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def columns(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(scale, low, high), each [stop − start, rows]; of a single group a view, no copy."""
        groups = range(start // self.size, (stop - 1) // self.size + 1)
        counts = [min(stop, (group + 1) * self.size) - max(start, group * self.size) for group in groups]
        scale, low, high = (self._spread(table, groups, counts) for table in (self.scale, self.low, self.high))
        return scale, low, high

    def _spread(self, table: torch.Tensor, groups: Sequence[int], counts: Sequence[int]) -> torch.Tensor:
        parts = [table[group - self.first].expand(count, -1) for group, count in zip(groups, counts, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class GroupPlan:
    """How the grids of `quantize_columns` come about when they are fitted on the way (dynamic groups).

    `fresh` fits each group on weights that hold every earlier column's update; otherwise on the weights as they were
    at the start of the column block, as in the reference code.
    """

    bits: int
    group_size: int
    sym: bool
    mse: bool
    fresh: bool


@dataclass(frozen=True)
class PruneRule:
    """What goes of a block of n columns, and how the rest is rounded.

    `mask` [n, rows] marks what to prune; with `kept_of` (kept, m) it is chosen instead, group by group on the updated
    weights, `forced` [n, rows] entries first. `grid` (scale, low, high), each [n, rows], rounds what stays.
    """

    mask: torch.Tensor | None = None
    kept_of: tuple[int, int] | None = None
    forced: torch.Tensor | None = None
    grid: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def part(self, columns: slice) -> PruneRule:
        """The same rule for some of the columns, whole groups of a pattern."""
        return PruneRule(
            None if self.mask is None else self.mask[columns],
            self.kept_of,
            None if self.forced is None else self.forced[columns],
            None if self.grid is None else (self.grid[0][columns], self.grid[1][columns], self.grid[2][columns]),
        )


def row_grids(columns: torch.Tensor, bits: int, *, sym: bool, mse: bool) -> GridTable:
    """One grid a row, fitted on all of `columns` [cols, rows]."""
    return _table(fit_grid(columns[None], bits, sym=sym, mse=mse, dim=1), columns.shape[0], columns.shape[0])


def group_grids(columns: torch.Tensor, bits: int, group_size: int, *, sym: bool, mse: bool) -> GridTable:
    """One grid a row and group of consecutive columns, fitted on `columns` [cols, rows] as they are."""
    groups = columns.unflatten(0, (-1, group_size))
    return _table(fit_grid(groups, bits, sym=sym, mse=mse, dim=1), columns.shape[0], group_size)


def quantize_columns(
    columns: torch.Tensor,
    upper: torch.Tensor,
    grids: GridTable | GroupPlan,
    block_size: int,
    pruned: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """GPTQ on `columns` [cols, rows], float32, used up; `upper` is U [cols, cols]; `pruned` [cols, rows] stays zero.

    Returns the quantized columns and the loss of every row, Σ e² = (W−Ŵ)(H+λI)(W−Ŵ)ᵀ.
    """
    quantized = torch.empty_like(columns)
    loss = torch.zeros(columns.shape[1], dtype=columns.dtype, device=columns.device)
    keep = None if pruned is None else (~pruned).to(columns.dtype)
    table: GridTable | GroupWindow | None = grids if isinstance(grids, GridTable) else None
    group_size = grids.group_size if isinstance(grids, GroupPlan) else columns.shape[0]
    fresh = isinstance(grids, GroupPlan) and grids.fresh
    solver = _solver(columns)
    for start, stop in column_blocks(columns.shape[0], block_size, group_size if fresh else None):
        if isinstance(grids, GroupPlan):
            table = _window(table, columns, start, stop, grids)
        assert table is not None
        scale, low, high = table.columns(start, stop)
        quantized[start:stop], errors = solver.quantize_block(
            columns[start:stop],
            upper[start:stop, start:stop],
            scale,
            low,
            high,
            None if keep is None else keep[start:stop],
        )
        loss += errors.square().sum(0)
        push(columns, upper, errors, start, stop)
    return quantized.add_(0.0), loss  # + 0.0: no negative zeros


def prune_columns(
    columns: torch.Tensor,
    upper: torch.Tensor,
    block_size: int,
    *,
    share: float,
    kept_of: tuple[int, int] | None,
    segments: Sequence[int],
    grids: GridTable | None = None,
    pruned: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """SparseGPT on `columns` [cols, rows], float32, used up; `upper` is U [cols, cols].

    Unstructured: `share` of each column block goes, weights competing within each of the stacked matrices (`segments`
    are their numbers of rows). `kept_of` (n, m) prunes within groups of m columns instead. `grids` quantizes what
    stays; `pruned` [cols, rows] goes in any case. Returns the columns and the loss of every row.
    """
    result = torch.empty_like(columns)
    loss = torch.zeros(columns.shape[1], dtype=columns.dtype, device=columns.device)
    solver = _solver(columns)
    for start, stop in column_blocks(columns.shape[0], block_size, None):
        block, factor = columns[start:stop], upper[start:stop, start:stop]
        forced = None if pruned is None else pruned[start:stop]
        mask = None if kept_of is not None else _block_mask(block, factor, share, segments, forced)
        grid = None if grids is None else grids.columns(start, stop)
        result[start:stop], errors = solver.prune_block(block, factor, PruneRule(mask, kept_of, forced, grid))
        loss += errors.square().sum(0)
        push(columns, upper, errors, start, stop)
    return result.add_(0.0), loss


def quantize_block(
    block: torch.Tensor,
    upper: torch.Tensor,
    scale: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    keep: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve one block of n columns: all arguments [n, rows] but `upper` [n, n]. `block` is updated in place.

    Returns the quantized columns and the errors e = (w − q) / U_ii, both [n, rows].
    """
    quantized, errors = torch.empty_like(block), torch.empty_like(block)
    kept = [None] * block.shape[0] if keep is None else keep.unbind(0)
    per_column = (block, quantized, errors, scale, low, high, spread_of(upper))
    for w, q, e, s, lowest, highest, spread, k in zip(*(part.unbind(0) for part in per_column), kept, strict=True):
        torch.div(w, s, out=q)
        torch.clamp(q.round_(), lowest, highest, out=q).mul_(s)
        if k is not None:
            q.mul_(k)
        block.addr_(spread, torch.sub(w, q, out=e))
    return quantized, errors.div_(upper.diagonal()[:, None])


def prune_block(block: torch.Tensor, upper: torch.Tensor, rule: PruneRule) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve one block of n columns [n, rows] with `upper` [n, n]; `block` is updated in place.

    Returns the new columns and the errors e = (w − q) / U_ii, both [n, rows].
    """
    values, errors = torch.empty_like(block), torch.empty_like(block)
    diagonal = upper.diagonal()
    keep = torch.empty_like(block) if rule.mask is None else (~rule.mask).to(block.dtype)
    per_column = (block, values, errors, keep, spread_of(upper))
    for i, (w, q, e, k, spread) in enumerate(zip(*(part.unbind(0) for part in per_column), strict=True)):
        if rule.kept_of is not None and i % rule.kept_of[1] == 0:
            group = slice(i, i + rule.kept_of[1])
            keep[group] = ~group_mask(block[group], diagonal[group], rule.kept_of, rule.part(group).forced)
        torch.mul(w, k, out=q)
        if rule.grid is not None:
            scale, low, high = (side[i] for side in rule.grid)
            torch.clamp(q.div_(scale).round_(), low, high, out=q).mul_(scale)
        block.addr_(spread, torch.sub(w, q, out=e))
    return values, errors.div_(diagonal[:, None])


def spread_of(upper: torch.Tensor) -> torch.Tensor:
    """[n, n]: how much of w − q of column i each later column takes over, −U_ij / U_ii; zero for columns up to i."""
    return torch.triu(upper / -upper.diagonal()[:, None], 1)


def column_blocks(cols: int, block_size: int, group_size: int | None) -> Iterator[tuple[int, int]]:
    """(start, stop) of the column blocks; with `group_size` no block reaches over the start of a group."""
    start = 0
    while start < cols:
        stop = min(start + block_size, cols)
        if group_size is not None:
            stop = min(stop, (start // group_size + 1) * group_size)
        yield start, stop
        start = stop


def push(columns: torch.Tensor, upper: torch.Tensor, errors: torch.Tensor, start: int, stop: int) -> None:
    """Subtract what the errors of a solved block mean for all later columns."""
    if stop < columns.shape[0]:
        with full_precision():
            columns[stop:].addmm_(upper[start:stop, stop : columns.shape[0]].T, errors, alpha=-1)


def _solver(columns: torch.Tensor) -> Any:
    """What offers `quantize_block` and `prune_block` for these columns: the device kernels, or this file."""
    return device_kernels(columns) or sys.modules[__name__]


def _window(
    before: GridTable | GroupWindow | None, columns: torch.Tensor, start: int, stop: int, plan: GroupPlan
) -> GroupWindow:
    """The grids of columns [start, stop): of the group under way, and of those that start here, fitted as they are."""
    size = plan.group_size
    first, last = -(-start // size), -(-stop // size)
    tables: list[tuple[torch.Tensor, ...]] = []
    if start % size:
        assert isinstance(before, GroupWindow)
        tables.append((before.scale[-1:], before.low[-1:], before.high[-1:]))
    if first < last:
        groups = columns[first * size : last * size].unflatten(0, (-1, size))
        grid = fit_grid(groups, plan.bits, sym=plan.sym, mse=plan.mse, dim=1)
        tables.append((grid.scale, -grid.zero, grid.levels - grid.zero))
    joined = tables[0] if len(tables) == 1 else tuple(torch.cat(parts) for parts in zip(*tables, strict=True))
    return GroupWindow(start // size, size, *joined)


def _table(grid: Grid, cols: int, group_size: int) -> GridTable:
    group_of = torch.arange(cols, device=grid.scale.device) // group_size
    return GridTable(grid.scale, -grid.zero, grid.levels - grid.zero, group_of)


def _block_mask(
    block: torch.Tensor, upper: torch.Tensor, share: float, segments: Sequence[int], forced: torch.Tensor | None
) -> torch.Tensor:
    """Mask [n, rows] of the weights with the smallest (w / U_jj)², each stacked matrix on its own."""
    scores = (block / upper.diagonal()[:, None]).square_()
    if forced is not None:
        scores = scores.masked_fill(forced, -1.0)
    return torch.cat([at_most_threshold(part, share) for part in scores.split(list(segments), dim=1)], dim=1)


def group_mask(
    group: torch.Tensor, diagonal: torch.Tensor, kept_of: tuple[int, int], forced: torch.Tensor | None
) -> torch.Tensor:
    """Mask [m, rows] of the weights of one n:m group with the smallest (w / U_jj)², `forced` ones first."""
    scores = (group / diagonal[:, None]).square_()
    if forced is not None:
        scores = scores.masked_fill(forced, -1.0)
    return smallest_of_first_axis(scores, kept_of[1] - kept_of[0])
