"""GPTQ, SparseGPT and SpQR over all columns of a weight: block after block, each pushing its errors onto the rest.

A block is solved by the kernels of its device, or by their twins in plain torch; what happens between blocks is here.
The hard case is a mask that must not depend on which linears are stacked: weights compete within their own matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

from methods.lazy import torch
from methods.numerics import columns as column_twins
from methods.numerics import spqr as spqr_twins
from methods.numerics.backend import ColumnKernels, SpQRKernels, column_kernels, spqr_kernels
from methods.numerics.blocks import ColumnBlock, GridTable, GroupPlan, PruneRule, blocks_of, column_blocks, push
from methods.numerics.grids import GridRule, fit_grid
from methods.numerics.selection import block_mask, first_of_all, smallest, threshold_rank
from methods.numerics.spqr import SpQRRule


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
    solver = column_solver(columns)
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
    solver = column_solver(columns)
    for block in blocks_of(columns, upper, result, loss, column_blocks(columns.shape[0], block_size, None)):
        forced = None if pruned is None else pruned[block.start : block.stop]
        mask = None
        if kept_of is None:
            part = range(block.start, block.stop)
            counts = [_count(part, rows, share) for rows in segments] if exact else None
            mask = share_mask(block.weights, block.upper.diagonal(), share, segments, forced, counts)
        grid = None if grids is None else grids.part(block.start, block.stop)
        errors = solver.prune_block(block, PruneRule(mask, kept_of, forced, grid))
        push(columns, upper, errors, block.start, block.stop)
    return result.add_(0.0), loss


def spqr_columns(
    columns: torch.Tensor,
    upper: torch.Tensor,
    rule: SpQRRule,
    block_size: int,
    *,
    threshold: torch.Tensor | None = None,
    keep: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """SpQR on `columns` [cols, rows], float32, used up; `upper` is U [cols, cols].

    `threshold` [rows] is the outlier threshold τ of every row, `keep` [cols, rows] marks weights that were not pruned.
    Returns the new columns, which of them are outliers, the loss of every row, and scales and zero points as they were
    fitted to the groups, [2, groups, rows].
    """
    cols = columns.shape[0]
    group = rule.group_size or cols
    fitted = columns.new_empty(2, cols // group, columns.shape[1])
    values, loss = torch.empty_like(columns), columns.new_zeros(columns.shape[1])
    outliers = torch.zeros_like(columns, dtype=torch.bool)
    solver: SpQRKernels = spqr_kernels(columns) or spqr_twins
    bounds = column_blocks(cols, max(block_size // group, 1) * group, None)
    for block in blocks_of(columns, upper, values, loss, bounds):
        part = slice(block.start, block.stop)
        kept = None if keep is None else keep[part]
        found = fitted[:, block.start // group : block.stop // group]
        errors = solver.spqr_block(rule, block, threshold, kept, outliers[part], found)
        push(columns, upper, errors, block.start, block.stop)
    return values.add_(0.0), outliers, loss, fitted


def column_solver(columns: torch.Tensor) -> ColumnKernels:
    """What solves blocks of these columns: the kernels of their device, or the twins."""
    return column_kernels(columns) or column_twins


def share_mask(
    block: torch.Tensor,
    diagonal: torch.Tensor,
    share: float,
    segments: Sequence[int],
    forced: torch.Tensor | None,
    counts: Sequence[int] | None = None,
) -> torch.Tensor:
    """Mask [n, rows] of the weights of `block` with the smallest (w / U_jj)², each stacked matrix on its own.

    `counts` of them, or those up to the reference's threshold for `share`. `diagonal` [n] is U_jj.
    """
    if counts is None:
        if share <= 0:
            return torch.zeros_like(block, dtype=torch.bool) if forced is None else forced.clone()
        ranks = [threshold_rank(block.shape[0] * rows, share) for rows in segments]
        return block_mask(block, diagonal, segments, ranks, forced)
    scores = first_of_all((block / diagonal[:, None]).square_(), forced)
    parts = scores.split(list(segments), dim=1)
    chosen = [smallest(part.flatten(), count) for part, count in zip(parts, counts, strict=True)]
    mask = torch.cat([each.view_as(part) for each, part in zip(chosen, parts, strict=True)], dim=1)
    return mask if forced is None else mask.logical_or_(forced)


def _fit_starting_groups(
    solver: ColumnKernels, columns: torch.Tensor, table: GridTable, block: ColumnBlock, plan: GroupPlan
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
