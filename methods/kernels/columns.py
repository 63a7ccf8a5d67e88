"""The column loops of GPTQ and SparseGPT as Triton kernels, one launch for a block of up to 128 columns.

The functions here have the signatures of the plain torch twins in `methods/numerics/columns.py`; how strips of columns
are solved is in `methods/kernels/strips.py`. Grids of groups are fitted by a launch of their own. The hard case is n:m
groups that no strip holds: the whole block is one strip then, and groups of more than 128 columns are chosen in torch.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl

from methods.kernels.strips import (
    LAUNCH,
    STRIP,
    WIDTH,
    add_to,
    clamped,
    column_of,
    diagonal_step,
    loaded,
    nearest_integer,
    padded,
    parts_of,
    places_of,
    spread_beyond,
    spread_in_strip,
    store_strip,
    stored_scale,
    strip_of,
)
from methods.numerics import columns as twin
from methods.numerics.blocks import ColumnBlock, GridTable, GroupPlan, PruneRule, push
from methods.numerics.columns import group_mask


def quantize_block(block: ColumnBlock, grids: GridTable, keep: torch.Tensor | None) -> torch.Tensor:
    """GPTQ on one block of n columns; `keep` [n, rows] is zero where a weight was pruned.

    Returns the errors e = (w − q) / U_ii, [n, rows].
    """
    errors = torch.empty_like(block.weights)
    (columns, rows), launch = errors.shape, LAUNCH["quantize"]
    for part in parts_of(columns, WIDTH):
        inner, n = block.part(part), part.stop - part.start
        spread = inner.spread
        _quantize[(triton.cdiv(rows, launch.rows),)](
            inner.weights, spread, inner.upper,
            grids.scale, grids.low, grids.high, grids.group_of[part], errors if keep is None else keep[part],
            inner.values, errors[part], inner.loss,
            rows, n, inner.weights.stride(0), spread.stride(0), diagonal_step(inner),
            grids.scale.stride(0), 0 if keep is None else keep.stride(0),
            KEEP=keep is not None, W=STRIP, N=padded(n), R=launch.rows,
            num_warps=launch.warps, enable_fp_fusion=False,
        )  # fmt: skip
        push(block.weights, block.upper, errors[part], part.start, part.stop)
    return errors


def prune_block(block: ColumnBlock, rule: PruneRule) -> torch.Tensor:
    """SparseGPT on one block of n columns. Returns the errors e = (w − q) / U_ii, [n, rows]."""
    errors = torch.empty_like(block.weights)
    group = 1 if rule.kept_of is None else rule.kept_of[1]
    width = group if group > WIDTH else WIDTH // group * group
    for part in parts_of(errors.shape[0], width):
        inner, inside = block.part(part), rule.part(part)
        if group > WIDTH:  # too wide to choose on the chip: choose, then solve with that mask
            assert inside.kept_of is not None
            chosen = group_mask(inner.weights, inner.upper.diagonal(), inside.kept_of, inside.forced)
            errors[part] = prune_block(inner, replace(inside, mask=chosen, kept_of=None, forced=None))
        else:
            _launch_prune(inner, inside, errors[part])
        push(block.weights, block.upper, errors[part], part.start, part.stop)
    return errors


def fit_groups(groups: torch.Tensor, plan: GroupPlan, table: GridTable) -> None:
    """Fit the grids of `groups` [groups, group_size, rows] and put them into `table`, which has as many."""
    rule = plan.rule
    if rule.mse:  # a search of 80 steps, in which launches matter less
        twin.fit_groups(groups, plan, table)
        return
    (count, size, rows), launch = groups.shape, LAUNCH["fit"]
    _fit[(count, triton.cdiv(rows, launch.rows))](
        groups, table.scale, table.low, table.high,
        rows, size, groups.stride(0), groups.stride(1), table.scale.stride(0),
        LEVELS=rule.levels, SYM=rule.sym, USUAL=rule.sym_rule == "usual",
        SCALE=rule.scale_dtype, N=32, R=launch.rows,
        num_warps=launch.warps, enable_fp_fusion=False,
    )  # fmt: skip


def _launch_prune(block: ColumnBlock, rule: PruneRule, errors: torch.Tensor) -> None:
    """One launch of `_prune` for the n columns of `block`; `errors` [n, rows] receives theirs."""
    (n, rows), launch = errors.shape, LAUNCH["prune"]
    group = 1 if rule.kept_of is None else rule.kept_of[1]
    gone = rule.forced if rule.kept_of is not None else rule.mask  # what is known to go before the loop starts
    grid, spread = rule.grid, block.spread
    table = (errors, errors, errors, errors) if grid is None else (grid.scale, grid.low, grid.high, grid.group_of)
    _prune[(triton.cdiv(rows, launch.rows),)](
        block.weights, spread, block.upper,
        errors if gone is None else gone.view(torch.uint8),
        *table, block.values, errors, block.loss,
        rows, n, block.weights.stride(0), spread.stride(0), diagonal_step(block),
        0 if gone is None else gone.stride(0), 0 if grid is None else grid.scale.stride(0),
        0 if rule.kept_of is None else group - rule.kept_of[0],
        CHOOSE=rule.kept_of is not None, GONE=gone is not None, GRID=grid is not None,
        M=group, W=padded(n) if STRIP % group else STRIP, N=padded(n), R=launch.rows,
        num_warps=launch.warps, enable_fp_fusion=False,
    )  # fmt: skip


@triton.jit
def _grids(
    scale: tl.tensor, low: tl.tensor, high: tl.tensor, group_of: tl.tensor, stride: tl.tensor, columns: tl.tensor,
    n: tl.tensor, row: tl.tensor, held: tl.tensor,
) -> tl.tensor:  # fmt: skip
    """(scale, low, high), each [columns, rows], from tables [groups, rows]."""
    group = tl.load(group_of + columns, mask=columns < n, other=0)
    place = group[:, None] * stride + row[None, :]
    s = tl.load(scale + place, mask=held, other=1.0)
    return s, tl.load(low + place, mask=held, other=0.0), tl.load(high + place, mask=held, other=0.0)


@triton.jit
def _on_grid(x: tl.tensor, scale: tl.tensor, low: tl.tensor, high: tl.tensor) -> tl.tensor:
    """Nearest values of an integer grid whose `low` and `high` bound what multiplies the scale."""
    return clamped(nearest_integer(tl.div_rn(x, scale)), low, high) * scale


@triton.jit
def _fit(
    groups: tl.tensor,
    scale: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    rows: tl.tensor,
    size: tl.tensor,
    group_stride: tl.tensor,
    column_stride: tl.tensor,
    table_stride: tl.tensor,
    LEVELS: tl.constexpr,
    SYM: tl.constexpr,
    USUAL: tl.constexpr,
    SCALE: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
) -> None:
    """`fit_grid` for one group and R rows: zero is always a level, and all-zero weights get a grid from −1 to 1."""
    group = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * R + tl.arange(0, R)
    valid = row < rows
    lowest = tl.zeros([R], tl.float32)
    highest = tl.zeros([R], tl.float32)
    for start in range(0, size, N):
        columns = start + tl.arange(0, N)
        held = (columns < size)[:, None] & valid[None, :]
        tile = tl.load(groups + group * group_stride + columns[:, None] * column_stride + row[None, :], held, other=0.0)
        lowest = tl.minimum(lowest, tl.min(tile, axis=0))
        highest = tl.maximum(highest, tl.max(tile, axis=0))
    if SYM:
        highest = tl.maximum(-lowest, highest)
        lowest = -highest if USUAL else tl.where(lowest < 0, -highest, lowest)
    empty = (lowest == 0) & (highest == 0)
    lowest = tl.where(empty, -1.0, lowest)
    highest = tl.where(empty, 1.0, highest)
    step = stored_scale(tl.div_rn(highest - lowest, tl.full([R], LEVELS, tl.float32)), SCALE)
    zero = tl.full([R], (LEVELS + 1) / 2, tl.float32)
    if not SYM:
        zero = clamped(nearest_integer(tl.div_rn(-lowest, step)), 0.0, LEVELS * 1.0)
    place = group * table_stride + row
    tl.store(scale + place, step, mask=valid)
    tl.store(low + place, -zero, mask=valid)
    tl.store(high + place, LEVELS - zero, mask=valid)


@triton.jit
def _quantize(
    block: tl.tensor,
    spread: tl.tensor,
    diagonal: tl.tensor,
    scale: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    group_of: tl.tensor,
    keep: tl.tensor,
    values: tl.tensor,
    errors: tl.tensor,
    loss: tl.tensor,
    rows: tl.tensor,
    n: tl.tensor,
    block_stride: tl.tensor,
    spread_stride: tl.tensor,
    diagonal_stride: tl.tensor,
    grid_stride: tl.tensor,
    keep_stride: tl.tensor,
    KEEP: tl.constexpr,
    W: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
) -> None:
    columns, row, valid, held = places_of(rows, n, R, N, R)
    tile = loaded(block, block_stride, columns, row, held)
    total = tl.zeros([R], tl.float32)
    for base in range(0, n, W):
        strip = strip_of(tile, base, W, N, R)
        places = base + tl.arange(0, W)
        inside = (places < n)[:, None] & valid[None, :]
        s, lowest, highest = _grids(scale, low, high, group_of, grid_stride, places, n, row, inside)
        kept = tl.full([W, R], 1.0, tl.float32)
        if KEEP:
            kept = loaded(keep, keep_stride, places, row, inside)
        for j in range(W):
            w = column_of(strip, j)
            q = _on_grid(w, column_of(s, j), column_of(lowest, j), column_of(highest, j))
            if KEEP:
                q = q * column_of(kept, j)
            strip = spread_in_strip(strip, w - q, spread, spread_stride, j, base, n, W)
        solved = _on_grid(strip, s, lowest, highest)  # a column stays as it was when its turn came
        if KEEP:
            solved = solved * kept
        if W < N:
            tile = spread_beyond(tile, strip - solved, spread, spread_stride, base, n, W, N)
        total += store_strip(
            solved, strip - solved, values, errors, diagonal, diagonal_stride, places, inside, n, rows, row
        )
    add_to(loss, total, row, valid)


@triton.jit
def _prune(
    block: tl.tensor,
    spread: tl.tensor,
    diagonal: tl.tensor,
    gone: tl.tensor,
    scale: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    group_of: tl.tensor,
    values: tl.tensor,
    errors: tl.tensor,
    loss: tl.tensor,
    rows: tl.tensor,
    n: tl.tensor,
    block_stride: tl.tensor,
    spread_stride: tl.tensor,
    diagonal_stride: tl.tensor,
    gone_stride: tl.tensor,
    grid_stride: tl.tensor,
    pruned: tl.tensor,
    CHOOSE: tl.constexpr,
    GONE: tl.constexpr,
    GRID: tl.constexpr,
    M: tl.constexpr,
    W: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
) -> None:
    columns, row, valid, held = places_of(rows, n, R, N, R)
    tile = loaded(block, block_stride, columns, row, held)
    total = tl.zeros([R], tl.float32)
    for base in range(0, n, W):
        strip = strip_of(tile, base, W, N, R)
        places = base + tl.arange(0, W)
        inside = (places < n)[:, None] & valid[None, :]
        stays = tl.full([W, R], 1.0, tl.float32)
        if GONE:
            stays = 1.0 - loaded(gone, gone_stride, places, row, inside).to(tl.float32)
        known = stays == 0
        if GRID:
            s, lowest, highest = _grids(scale, low, high, group_of, grid_stride, places, n, row, inside)
        for j in range(W):
            if CHOOSE:  # noqa: SIM102 - known when compiled, the next line is not
                if j % M == 0:
                    limits = tl.load(diagonal + places * diagonal_stride, mask=places < n, other=1.0)
                    stays = _choose(strip, limits, known, stays, j, pruned, M, W, R)
            w = column_of(strip, j)
            q = w * column_of(stays, j)
            if GRID:
                q = _on_grid(q, column_of(s, j), column_of(lowest, j), column_of(highest, j))
            strip = spread_in_strip(strip, w - q, spread, spread_stride, j, base, n, W)
        solved = strip * stays  # a column stays as it was when its turn came
        if GRID:
            solved = _on_grid(solved, s, lowest, highest)
        if W < N:
            tile = spread_beyond(tile, strip - solved, spread, spread_stride, base, n, W, N)
        total += store_strip(
            solved, strip - solved, values, errors, diagonal, diagonal_stride, places, inside, n, rows, row
        )
    add_to(loss, total, row, valid)


@triton.jit
def _choose(
    strip: tl.tensor, limits: tl.tensor, known: tl.tensor, stays: tl.tensor, first: tl.tensor, pruned: tl.tensor,
    M: tl.constexpr, W: tl.constexpr, R: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """`stays` [W, R] with the group of M columns from `first` on chosen: the `pruned` smallest (w / U_jj)² get zero.

    Those `known` to go come first, and all of them go; among equals the lower index goes.
    """
    columns = tl.arange(0, W)
    scores = tl.div_rn(strip, tl.broadcast_to(limits[:, None], [W, R]))
    scores = tl.where(known, -1.0, scores * scores)
    rank = tl.zeros([W, R], dtype=tl.int32)
    for other in range(first, first + M):
        score = column_of(scores, other)
        before = (score[None, :] == scores) & (columns[:, None] > other)
        rank += ((score[None, :] < scores) | before).to(tl.int32)
    mine = (columns >= first) & (columns < first + M)
    return tl.where(mine[:, None] & (known == 0), (rank >= pruned).to(tl.float32), stays)
