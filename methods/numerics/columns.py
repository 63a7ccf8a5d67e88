"""The column loops of GPTQ and SparseGPT: fix one input's weights, push the error onto the inputs still to come.

Everything here is transposed, [cols, rows], so that one column of the weight is contiguous; rows are independent and
several linears that share an input are stacked along them. A block of columns is solved on its own (`quantize_block`,
`prune_block`), then its errors reach the later columns in one product. These two and `fit_groups` are the plain torch
version; on a CUDA device the kernels of `methods/kernels/columns.py` replace them one for one. The hard case there is
the time between kernels: a block is a few microseconds of work, so it must not take dozens of launches.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from methods.lazy import torch
from methods.numerics.backend import device_kernels
from methods.numerics.factor import full_precision
from methods.numerics.grids import GridRule, fit_grid
from methods.numerics.selection import (
    at_most_threshold,
    first_of_all,
    selection_kernels,
    smallest,
    smallest_of_first_axis,
    threshold_rank,
)

WIDEST_READY = 1024  # columns of a block whose spread is made ahead


@dataclass(frozen=True)
class GridTable:
    """The grids of all columns: `scale`, `low`, `high` are [groups, rows], `group_of` [cols] names a column's group.

    `low` and `high` bound the integer that multiplies the scale (code minus zero point).
    """

    scale: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    group_of: torch.Tensor

    def part(self, start: int, stop: int) -> GridTable:
        """The same grids for some of the columns."""
        return GridTable(self.scale, self.low, self.high, self.group_of[start:stop])

    def columns(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(scale, low, high) of every column, each [cols, rows]."""
        if self.scale.shape[0] == 1:  # one grid a row: a view, no copy
            count = self.group_of.shape[0]
            return self.scale.expand(count, -1), self.low.expand(count, -1), self.high.expand(count, -1)
        return self.scale[self.group_of], self.low[self.group_of], self.high[self.group_of]


@dataclass(frozen=True)
class ColumnBlock:
    """n consecutive columns on their way through a solver.

    weights [n, rows] are used up; upper [n, n] is their part of U, ready [n, n] what `spread_of` makes of it, if that
    was made for many blocks at once; values [n, rows] receives the new columns; loss [rows] gets Σ e² of its row added.
    Rows of weights, values and ready are contiguous.
    """

    start: int
    weights: torch.Tensor
    upper: torch.Tensor
    ready: torch.Tensor | None
    values: torch.Tensor
    loss: torch.Tensor

    @property
    def stop(self) -> int:
        return self.start + self.weights.shape[0]

    @property
    def spread(self) -> torch.Tensor:
        """[n, n]: `spread_of(upper)`."""
        return spread_of(self.upper) if self.ready is None else self.ready

    def part(self, columns: slice) -> ColumnBlock:
        """Some of its columns."""
        square = (columns, columns)
        ready = None if self.ready is None else self.ready[square]
        start = self.start + columns.start
        return ColumnBlock(start, self.weights[columns], self.upper[square], ready, self.values[columns], self.loss)


@dataclass(frozen=True)
class GroupPlan:
    """How the grids of `quantize_columns` come about when they are fitted on the way (dynamic groups).

    `fresh` fits each group on weights that hold every earlier column's update; otherwise on the weights as they were
    at the start of the column block, as in the reference code.
    """

    rule: GridRule
    group_size: int
    fresh: bool


@dataclass(frozen=True)
class PruneRule:
    """What goes of a block of n columns, and how the rest is rounded.

    `mask` [n, rows] marks what to prune; with `kept_of` (kept, m) it is chosen instead, group by group on the updated
    weights, `forced` [n, rows] entries first. `grid` rounds what stays.
    """

    mask: torch.Tensor | None = None
    kept_of: tuple[int, int] | None = None
    forced: torch.Tensor | None = None
    grid: GridTable | None = None

    def part(self, columns: slice) -> PruneRule:
        """The same rule for some of the columns, whole groups of a pattern."""
        return PruneRule(
            None if self.mask is None else self.mask[columns],
            self.kept_of,
            None if self.forced is None else self.forced[columns],
            None if self.grid is None else self.grid.part(columns.start, columns.stop),
        )


def fitted_grids(columns: torch.Tensor, rule: GridRule, group_size: int | None) -> GridTable:
    """One grid a row (and group of consecutive columns), fitted on `columns` [cols, rows] as they are."""
    size = group_size or columns.shape[0]
    grid = fit_grid(columns.unflatten(0, (-1, size)), rule, dim=1)
    group_of = torch.arange(columns.shape[0], device=columns.device) // size
    return GridTable(grid.scale, -grid.zero, grid.levels - grid.zero, group_of)


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
    plan = grids if isinstance(grids, GroupPlan) else None
    table = grids if isinstance(grids, GridTable) else _unfitted(columns, grids.group_size)
    quantized, loss = torch.empty_like(columns), columns.new_zeros(columns.shape[1])
    keep = None if pruned is None else (~pruned).to(columns.dtype)
    solver = _solver(columns)
    group_size = plan.group_size if plan is not None and plan.fresh else None
    for block in blocks_of(columns, upper, quantized, loss, column_blocks(columns.shape[0], block_size, group_size)):
        if plan is not None:
            _fit_starting_groups(solver, columns, table, block, plan)
        part = slice(block.start, block.stop)
        errors = solver.quantize_block(block, table.part(block.start, block.stop), None if keep is None else keep[part])
        push(columns, upper, errors, block.start, block.stop)
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
    exact: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """SparseGPT on `columns` [cols, rows], float32, used up; `upper` is U [cols, cols].

    Unstructured: `share` of each column block goes, weights competing within each of the stacked matrices (`segments`
    are their numbers of rows): all scores up to a threshold, as in the reference code, or as many as make the share
    `exact` to half a weight of each matrix. `kept_of` (n, m) prunes within groups of m columns instead. `grids`
    quantizes what stays; `pruned` [cols, rows] goes in any case. Returns the columns and the loss of every row.
    """
    result, loss = torch.empty_like(columns), columns.new_zeros(columns.shape[1])
    solver = _solver(columns)
    for block in blocks_of(columns, upper, result, loss, column_blocks(columns.shape[0], block_size, None)):
        forced = None if pruned is None else pruned[block.start : block.stop]
        mask = None
        if kept_of is None:
            part = range(block.start, block.stop)
            counts = [_count(part, rows, share) for rows in segments] if exact else None
            mask = _block_mask(block.weights, block.upper, share, segments, forced, counts)
        grid = None if grids is None else grids.part(block.start, block.stop)
        errors = solver.prune_block(block, PruneRule(mask, kept_of, forced, grid))
        push(columns, upper, errors, block.start, block.stop)
    return result.add_(0.0), loss


def quantize_block(block: ColumnBlock, grids: GridTable, keep: torch.Tensor | None) -> torch.Tensor:
    """GPTQ on one block of n columns; `keep` [n, rows] is zero where a weight was pruned.

    Returns the errors e = (w − q) / U_ii, [n, rows].
    """
    errors = torch.empty_like(block.weights)
    kept = [None] * errors.shape[0] if keep is None else keep.unbind(0)
    per_column = (block.weights, block.values, errors, *grids.columns(), block.spread)
    for w, q, e, s, low, high, spread, k in zip(*(part.unbind(0) for part in per_column), kept, strict=True):
        torch.div(w, s, out=q)
        torch.clamp(q.round_(), low, high, out=q).mul_(s)
        if k is not None:
            q.mul_(k)
        block.weights.addr_(spread, torch.sub(w, q, out=e))
    return _finished(block, errors)


def prune_block(block: ColumnBlock, rule: PruneRule) -> torch.Tensor:
    """SparseGPT on one block of n columns. Returns the errors e = (w − q) / U_ii, [n, rows]."""
    errors = torch.empty_like(block.weights)
    diagonal = block.upper.diagonal()
    keep = torch.empty_like(errors) if rule.mask is None else (~rule.mask).to(errors.dtype)
    grids = None if rule.grid is None else rule.grid.columns()
    per_column = (block.weights, block.values, errors, keep, block.spread)
    for i, (w, q, e, k, spread) in enumerate(zip(*(part.unbind(0) for part in per_column), strict=True)):
        if rule.kept_of is not None and i % rule.kept_of[1] == 0:
            group = slice(i, i + rule.kept_of[1])
            keep[group] = ~group_mask(block.weights[group], diagonal[group], rule.kept_of, rule.part(group).forced)
        torch.mul(w, k, out=q)
        if grids is not None:
            scale, low, high = (side[i] for side in grids)
            torch.clamp(q.div_(scale).round_(), low, high, out=q).mul_(scale)
        block.weights.addr_(spread, torch.sub(w, q, out=e))
    return _finished(block, errors)


def fit_groups(groups: torch.Tensor, plan: GroupPlan, table: GridTable) -> None:
    """Fit the grids of `groups` [groups, group_size, rows] and put them into `table`, which has as many."""
    grid = fit_grid(groups, plan.rule, dim=1)
    table.scale.copy_(grid.scale)
    torch.neg(grid.zero, out=table.low)
    table.high.copy_(grid.levels - grid.zero)


def blocks_of(
    columns: torch.Tensor,
    upper: torch.Tensor,
    values: torch.Tensor,
    loss: torch.Tensor,
    bounds: Iterable[tuple[int, int]],
) -> Iterator[ColumnBlock]:
    """The column blocks within `bounds`, one after the other; `values` [cols, rows] and `loss` [rows] get results."""
    bounds = list(bounds)
    for (start, stop), spread in zip(bounds, _spreads(upper, bounds), strict=True):
        part = slice(start, stop)
        yield ColumnBlock(start, columns[part], upper[part, part], spread, values[part], loss)


def spread_of(upper: torch.Tensor) -> torch.Tensor:
    """[..., n, n]: the share of w − q of column i that a later column j takes over, −U_ij / U_ii; zero for j ≤ i."""
    return torch.triu(upper / -upper.diagonal(dim1=-2, dim2=-1)[..., None], 1)


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


def _finished(block: ColumnBlock, errors: torch.Tensor) -> torch.Tensor:
    """`errors` w − q [n, rows] over U_ii, in place, and their squares added to the loss."""
    errors.div_(block.upper.diagonal()[:, None])
    block.loss.add_(errors.square().sum(0))
    return errors


def _spreads(upper: torch.Tensor, bounds: Sequence[tuple[int, int]]) -> Iterator[torch.Tensor | None]:
    """`spread_of` the corners of the first block and of those as wide that follow it, made at once; None for others.

    None as well for wide blocks: of a group of 28 thousand columns it would fill 3 GiB.
    """
    width, alike = bounds[0][1], 0
    if width <= WIDEST_READY:
        alike = next((i for i, (start, stop) in enumerate(bounds) if stop - start != width), len(bounds))
        down, right = upper.stride()
        yield from spread_of(upper.as_strided((alike, width, width), (width * (down + right), down, right)))
    yield from [None] * (len(bounds) - alike)


def _fit_starting_groups(
    solver: Any, columns: torch.Tensor, table: GridTable, block: ColumnBlock, plan: GroupPlan
) -> None:
    """Fit the groups that start in `block`, on their weights as they are now."""
    size = plan.group_size
    first, last = -(-block.start // size), -(-block.stop // size)
    if first < last:
        rows = slice(first, last)
        groups = columns[first * size : last * size].unflatten(0, (-1, size))
        solver.fit_groups(groups, plan, GridTable(table.scale[rows], table.low[rows], table.high[rows], table.group_of))


def _unfitted(columns: torch.Tensor, group_size: int) -> GridTable:
    """A table for groups of consecutive columns [cols, rows], to be filled."""
    cols, rows = columns.shape
    scale, low, high = columns.new_empty(3, cols // group_size, rows)
    return GridTable(scale, low, high, torch.arange(cols, device=columns.device) // group_size)


def _count(columns: range, rows: int, share: float) -> int:
    """How many weights of these columns go when all columns up to the last lose round(`share` of them)."""
    return round(columns.stop * rows * share) - round(columns.start * rows * share)


def _block_mask(
    block: torch.Tensor,
    upper: torch.Tensor,
    share: float,
    segments: Sequence[int],
    forced: torch.Tensor | None,
    counts: Sequence[int] | None = None,
) -> torch.Tensor:
    """Mask [n, rows] of the weights with the smallest (w / U_jj)², each stacked matrix on its own.

    `counts` of them, or those up to the reference's threshold.
    """
    kernels = selection_kernels(block)
    if kernels is not None and share > 0 and counts is None:
        ranks = [threshold_rank(block.shape[0] * rows, share) for rows in segments]
        return kernels.block_mask(block, upper.diagonal(), segments, ranks, forced)
    scores = first_of_all((block / upper.diagonal()[:, None]).square_(), forced)
    parts = scores.split(list(segments), dim=1)
    if counts is None:
        mask = torch.cat([at_most_threshold(part, share) for part in parts], dim=1)
    else:
        chosen = [smallest(part.flatten(), count) for part, count in zip(parts, counts, strict=True)]
        mask = torch.cat([each.view_as(part) for each, part in zip(chosen, parts, strict=True)], dim=1)
    return mask if forced is None else mask.logical_or_(forced)


def group_mask(
    group: torch.Tensor, diagonal: torch.Tensor, kept_of: tuple[int, int], forced: torch.Tensor | None
) -> torch.Tensor:
    """Mask [m, rows] of the weights of one n:m group with the smallest (w / U_jj)², `forced` ones first and all."""
    scores = first_of_all((group / diagonal[:, None]).square_(), forced)
    mask = smallest_of_first_axis(scores, kept_of[1] - kept_of[0])
    return mask if forced is None else mask.logical_or_(forced)
