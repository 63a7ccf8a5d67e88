"""The column loops of GPTQ and SparseGPT inside a block, in plain torch: fix one input's weights, spread the error.

The functions are the twins of those in `methods/kernels/columns.py`, which replace them one for one on a CUDA device.
"""

from __future__ import annotations

from methods.lazy import torch
from methods.numerics.blocks import ColumnBlock, GridTable, GroupPlan, PruneRule
from methods.numerics.grids import fit_grid
from methods.numerics.selection import first_of_all, smallest_of_first_axis


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


def group_mask(
    group: torch.Tensor, diagonal: torch.Tensor, kept_of: tuple[int, int], forced: torch.Tensor | None
) -> torch.Tensor:
    """Mask [m, rows] of the weights of one n:m group with the smallest (w / U_jj)², `forced` ones first and all."""
    scores = first_of_all((group / diagonal[:, None]).square_(), forced)
    mask = smallest_of_first_axis(scores, kept_of[1] - kept_of[0])
    return mask if forced is None else mask.logical_or_(forced)


def _finished(block: ColumnBlock, errors: torch.Tensor) -> torch.Tensor:
    """`errors` w − q [n, rows] over U_ii, in place, and their squares added to the loss."""
    errors.div_(block.upper.diagonal()[:, None])
    block.loss.add_(errors.square().sum(0))
    return errors
