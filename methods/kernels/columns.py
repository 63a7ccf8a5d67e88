"""The column loops of GPTQ, SparseGPT and SpQR as Triton kernels, one launch for a block of up to 128 columns.

Rows are independent, so a program takes a few rows, holds their part of the block on the chip, [columns, rows], and
goes from column to column: round or prune, and spread the error over the columns still to come. It does so in strips of
16 columns: a column's error reaches the rest of its strip at once, since the next column waits for it, and the later
strips when the strip is done. The errors come back, so that the update of all later blocks stays one matrix product;
grids of groups are fitted by a launch of their own. The functions here have the signatures of the plain torch twins in
`methods/columns.py` and `methods/spqr.py`.

The hard case is agreeing with the twin: a different last bit turns a tie into another code, and the rest of that row
follows. Hence division rounds correctly, rounding is half to even, products and sums are fused only where the update of
a column says so, and comparisons break ties by index as there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from methods import columns as twin
from methods.columns import ColumnBlock, GridTable, GroupPlan, PruneRule, group_mask, push

if TYPE_CHECKING:
    from methods.spqr import SpQR

WIDTH = 128  # columns of one launch: with 16 rows they fill 64 registers of a thread of one warp
STRIP = 16  # columns that are solved together; what they mean for the other columns is added when they are done
INTEGERS = tl.constexpr(8388608.0)  # 2^23: float32 numbers from here on are whole
SMALLEST_SCALE = tl.constexpr(1e-9)


@dataclass(frozen=True)
class Launch:
    """Rows of one program (a power of two) and its warps."""

    rows: int
    warps: int


LAUNCH = {"quantize": Launch(16, 1), "prune": Launch(8, 1), "spqr": Launch(16, 1), "fit": Launch(64, 4)}


def quantize_block(block: ColumnBlock, grids: GridTable, keep: torch.Tensor | None) -> torch.Tensor:
    """GPTQ on one block of n columns; `keep` [n, rows] is zero where a weight was pruned.

    Returns the errors e = (w − q) / U_ii, [n, rows].
    """
    errors = torch.empty_like(block.weights)
    (columns, rows), launch = errors.shape, LAUNCH["quantize"]
    for part in _parts(columns, WIDTH):
        inner, n = block.part(part), part.stop - part.start
        _quantize[(triton.cdiv(rows, launch.rows),)](
            inner.weights, inner.spread, inner.upper,
            grids.scale, grids.low, grids.high, grids.group_of[part], errors if keep is None else keep[part],
            inner.values, errors[part], inner.loss,
            rows, n, inner.weights.stride(0), inner.spread.stride(0), _diagonal_stride(inner),
            grids.scale.stride(0), 0 if keep is None else keep.stride(0),
            KEEP=keep is not None, W=STRIP, N=_padded(n), R=launch.rows,
            num_warps=launch.warps, enable_fp_fusion=False,
        )  # fmt: skip
        push(block.weights, block.upper, errors[part], part.start, part.stop)
    return errors


def prune_block(block: ColumnBlock, rule: PruneRule) -> torch.Tensor:
    """SparseGPT on one block of n columns. Returns the errors e = (w − q) / U_ii, [n, rows]."""
    errors = torch.empty_like(block.weights)
    group = 1 if rule.kept_of is None else rule.kept_of[1]
    width = group if group > WIDTH else WIDTH // group * group
    for part in _parts(errors.shape[0], width):
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
    if plan.mse:  # a search of 80 steps, in which launches matter less
        twin.fit_groups(groups, plan, table)
        return
    (count, size, rows), launch = groups.shape, LAUNCH["fit"]
    _fit[(count, triton.cdiv(rows, launch.rows))](
        groups, table.scale, table.low, table.high,
        rows, size, groups.stride(0), groups.stride(1), table.scale.stride(0),
        LEVELS=2**plan.bits - 1, SYM=plan.sym, N=32, R=launch.rows,
        num_warps=launch.warps, enable_fp_fusion=False,
    )  # fmt: skip


def spqr_block(
    method: SpQR,
    block: ColumnBlock,
    threshold: torch.Tensor | None,
    keep: torch.Tensor | None,
    outliers: torch.Tensor,
) -> torch.Tensor:
    """SpQR on one block of whole groups.

    `threshold` [rows] is the outlier threshold τ, `keep` [n, rows] marks weights that were not pruned, and outliers are
    marked in `outliers` [n, rows], false before. Returns the errors e = (w − ŵ) / U_ii, [n, rows].
    """
    errors = torch.empty_like(block.weights)
    columns = errors.shape[0]
    group = method.group_size or columns
    if group <= WIDTH and (not method.bilevel or method.statistics_group <= LARGEST_SEGMENT):
        for part in _parts(columns, WIDTH // group * group):
            _launch_spqr(method, block, part, group, None, threshold, keep, errors, outliers)
            push(block.weights, block.upper, errors[part], part.start, part.stop)
        return errors
    for whole in _parts(columns, group):  # a grid over more columns or rows than fit on the chip is given
        wide = block.part(whole)
        grid = method.fit(wide.weights, wide.upper.diagonal(), threshold)
        for inner in _parts(whole.stop - whole.start, WIDTH):
            part = slice(whole.start + inner.start, whole.start + inner.stop)
            _launch_spqr(method, block, part, group, (grid.scale, grid.zero), threshold, keep, errors, outliers)
            push(block.weights, block.upper, errors[part], part.start, part.stop)
    return errors


LARGEST_SEGMENT = 64  # rows that share second-level statistics and still fit one program


def _parts(n: int, width: int) -> Iterator[slice]:
    """Consecutive slices of at most `width` that cover n columns."""
    for start in range(0, n, width):
        yield slice(start, min(start + width, n))


def _padded(n: int) -> int:
    """A power of two that holds n columns; few different ones, as each is a compiled kernel."""
    return max(16, triton.next_power_of_2(n))


def _diagonal_stride(block: ColumnBlock) -> int:
    """From one entry of U's diagonal to the next, in numbers."""
    return sum(block.upper.stride())


def _launch_prune(block: ColumnBlock, rule: PruneRule, errors: torch.Tensor) -> None:
    """One launch of `_prune` for the n columns of `block`; `errors` [n, rows] receives theirs."""
    (n, rows), launch = errors.shape, LAUNCH["prune"]
    group = 1 if rule.kept_of is None else rule.kept_of[1]
    gone = rule.forced if rule.kept_of is not None else rule.mask  # what is known to go before the loop starts
    grid = rule.grid
    table = (errors, errors, errors, errors) if grid is None else (grid.scale, grid.low, grid.high, grid.group_of)
    _prune[(triton.cdiv(rows, launch.rows),)](
        block.weights, block.spread, block.upper,
        errors if gone is None else gone.view(torch.uint8),
        *table, block.values, errors, block.loss,
        rows, n, block.weights.stride(0), block.spread.stride(0), _diagonal_stride(block),
        0 if gone is None else gone.stride(0), 0 if grid is None else grid.scale.stride(0),
        0 if rule.kept_of is None else group - rule.kept_of[0],
        CHOOSE=rule.kept_of is not None, GONE=gone is not None, GRID=grid is not None,
        M=group, W=_padded(n) if STRIP % group else STRIP, N=_padded(n), R=launch.rows,
        num_warps=launch.warps, enable_fp_fusion=False,
    )  # fmt: skip


def _launch_spqr(
    method: SpQR,
    block: ColumnBlock,
    part: slice,
    group: int,
    grid: tuple[torch.Tensor, torch.Tensor] | None,
    threshold: torch.Tensor | None,
    keep: torch.Tensor | None,
    errors: torch.Tensor,
    outliers: torch.Tensor,
) -> None:
    """One launch of `_spqr` for the columns of `part`; with `grid` (scale, zero) [rows] nothing is fitted."""
    inner, launch = block.part(part), LAUNCH["spqr"]
    (n, rows), width = inner.weights.shape, _padded(inner.weights.shape[0])
    segment = method.statistics_group if method.bilevel and grid is None else 1
    strip = STRIP  # with grids to fit, one group
    if grid is None:
        strip = group if group == triton.next_power_of_2(group) and group <= width else width
    held = max(launch.rows, triton.next_power_of_2(segment))
    used = held // segment * segment  # whole segments only
    quantized_zero = method.zero_bits is not None and (not method.round_zero or method.zero_bits < method.bits)
    search = threshold is not None and not method.simplified_outliers and group > 1
    flags: dict[str, Any] = {
        "LEVELS": 2**method.bits - 1,
        "SCALE_LEVELS": 2**method.scale_bits - 1 if method.scale_bits is not None else 0,
        "ZERO_LEVELS": 2**method.zero_bits - 1 if quantized_zero and method.zero_bits is not None else 0,
        "SEGMENT": segment,
        "ROUND_ZERO": method.round_zero,
        "FIT": grid is None,
        "SEARCH": search,
        "OUTLIERS": threshold is not None,
        "KEEP": keep is not None,
    }
    _spqr[(triton.cdiv(rows, used),)](
        inner.weights, inner.spread, inner.upper,
        errors if grid is None else grid[0], errors if grid is None else grid[1],
        errors if threshold is None else threshold,
        errors if keep is None else keep[part].view(torch.uint8),
        inner.values, errors[part], outliers[part].view(torch.uint8), inner.loss,
        rows, n, group,
        inner.weights.stride(0), inner.spread.stride(0), _diagonal_stride(inner), 0 if keep is None else keep.stride(0),
        **flags, USED=used, W=strip, N=width, R=held,
        num_warps=launch.warps * (held // launch.rows), enable_fp_fusion=False,
    )  # fmt: skip


@triton.jit
def _round(x: tl.tensor) -> tl.tensor:
    """The nearest integer, half to even."""
    size = tl.abs(x)
    whole = tl.where(size < INTEGERS, (size + INTEGERS) - INTEGERS, size)
    return tl.where(x < 0, -whole, whole)


@triton.jit
def _clamp(x: tl.tensor, low: tl.tensor, high: tl.tensor) -> tl.tensor:
    """`x` between `low` and `high`; NaN stays NaN, so that a failure shows."""
    raised = tl.maximum(x, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(raised, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _column(tile: tl.tensor, j: tl.tensor) -> tl.tensor:
    """Column j of `tile` [columns, rows]."""
    return tl.sum(tl.where(tl.arange(0, tile.shape[0])[:, None] == j, tile, 0.0), axis=0)


@triton.jit
def _places(rows: tl.tensor, n: tl.tensor, USED: tl.constexpr, N: tl.constexpr, R: tl.constexpr) -> tl.tensor:
    """Columns [N] of the block, rows [R] of the weight, and which of these rows and entries [N, R] there are."""
    columns = tl.arange(0, N)
    place = tl.arange(0, R)
    row = tl.program_id(0) * USED + place
    valid = (row < rows) & (place < USED)
    return columns, row, valid, (columns[:, None] < n) & valid[None, :]


@triton.jit
def _load(part: tl.tensor, stride: tl.tensor, columns: tl.tensor, row: tl.tensor, held: tl.tensor) -> tl.tensor:
    """The program's entries [columns, rows] of `part`, zero where there is none."""
    return tl.load(part + columns[:, None] * stride + row[None, :], mask=held, other=0)


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
    return _clamp(_round(tl.div_rn(x, scale)), low, high) * scale


@triton.jit
def _strip(tile: tl.tensor, base: tl.tensor, W: tl.constexpr, N: tl.constexpr, R: tl.constexpr) -> tl.tensor:
    """The W columns of `tile` [N, R] from column `base` on, a multiple of W."""
    if W == N:
        return tile
    mine = tl.arange(0, N // W)[:, None, None] == base // W
    return tl.sum(tl.where(mine, tl.reshape(tile, [N // W, W, R]), 0.0), axis=0)


@triton.jit
def _place(j: tl.tensor, n: tl.tensor) -> tl.tensor:
    """Where to read what belongs to column j of n; a strip may reach beyond the last one, and what is read for that
    column meets a weight of zero and is not stored."""
    return tl.minimum(j, n - 1)


@triton.jit
def _spread_in_strip(
    strip: tl.tensor, e: tl.tensor, spread: tl.tensor, stride: tl.tensor, j: tl.tensor, base: tl.tensor, n: tl.tensor,
    W: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """`strip` [W, rows] with the error `e` [rows] of its column j spread over its later columns."""
    place = base + tl.arange(0, W)
    factors = tl.load(spread + _place(base + j, n) * stride + place, mask=place < n, other=0.0)
    return tl.fma(factors[:, None], e[None, :], strip)


@triton.jit
def _spread_beyond(
    tile: tl.tensor, e: tl.tensor, spread: tl.tensor, stride: tl.tensor, base: tl.tensor, n: tl.tensor,
    W: tl.constexpr, N: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """`tile` [N, rows] with the errors `e` [W, rows] of the strip at `base` spread over the columns after the strip."""
    columns = tl.arange(0, N)
    for j in range(W):
        later = (columns >= base + W) & (columns < n)
        factors = tl.load(spread + (base + j) * stride + columns, mask=later, other=0.0)
        tile = tl.fma(factors[:, None], _column(e, j)[None, :], tile)
    return tile


@triton.jit
def _finish(
    q: tl.tensor, e: tl.tensor, values: tl.tensor, errors: tl.tensor, diagonal: tl.tensor, stride: tl.tensor,
    columns: tl.tensor, held: tl.tensor, n: tl.tensor, rows: tl.tensor, row: tl.tensor,
) -> tl.tensor:  # fmt: skip
    """Store the solved columns of a strip and their errors over U_jj; returns the sum of these errors' squares."""
    limits = tl.load(diagonal + columns * stride, mask=columns < n, other=1.0)
    relative = tl.div_rn(e, tl.broadcast_to(limits[:, None], e.shape))
    place = columns[:, None] * rows + row[None, :]
    tl.store(values + place, q, mask=held)
    tl.store(errors + place, relative, mask=held)
    return tl.sum(tl.where(held, relative * relative, 0.0), axis=0)


@triton.jit
def _add(total: tl.tensor, part: tl.tensor, row: tl.tensor, valid: tl.tensor) -> None:
    """Add `part` [rows] to the program's rows of `total`."""
    tl.store(total + row, tl.load(total + row, mask=valid, other=0.0) + part, mask=valid)


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
        lowest = tl.where(lowest < 0, -highest, lowest)
    empty = (lowest == 0) & (highest == 0)
    lowest = tl.where(empty, -1.0, lowest)
    highest = tl.where(empty, 1.0, highest)
    step = tl.div_rn(highest - lowest, tl.full([R], LEVELS, tl.float32))
    zero = tl.full([R], (LEVELS + 1) / 2, tl.float32) if SYM else _round(tl.div_rn(-lowest, step))
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
    columns, row, valid, held = _places(rows, n, R, N, R)
    tile = _load(block, block_stride, columns, row, held)
    total = tl.zeros([R], tl.float32)
    for base in range(0, n, W):
        strip = _strip(tile, base, W, N, R)
        places = base + tl.arange(0, W)
        inside = (places < n)[:, None] & valid[None, :]
        s, lowest, highest = _grids(scale, low, high, group_of, grid_stride, places, n, row, inside)
        kept = tl.full([W, R], 1.0, tl.float32)
        if KEEP:
            kept = _load(keep, keep_stride, places, row, inside)
        for j in range(W):
            w = _column(strip, j)
            q = _on_grid(w, _column(s, j), _column(lowest, j), _column(highest, j))
            if KEEP:
                q = q * _column(kept, j)
            strip = _spread_in_strip(strip, w - q, spread, spread_stride, j, base, n, W)
        solved = _on_grid(strip, s, lowest, highest)  # a column stays as it was when its turn came
        if KEEP:
            solved = solved * kept
        if W < N:
            tile = _spread_beyond(tile, strip - solved, spread, spread_stride, base, n, W, N)
        total += _finish(
            solved, strip - solved, values, errors, diagonal, diagonal_stride, places, inside, n, rows, row
        )
    _add(loss, total, row, valid)


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
    columns, row, valid, held = _places(rows, n, R, N, R)
    tile = _load(block, block_stride, columns, row, held)
    total = tl.zeros([R], tl.float32)
    for base in range(0, n, W):
        strip = _strip(tile, base, W, N, R)
        places = base + tl.arange(0, W)
        inside = (places < n)[:, None] & valid[None, :]
        stays = tl.full([W, R], 1.0, tl.float32)
        if GONE:
            stays = 1.0 - _load(gone, gone_stride, places, row, inside).to(tl.float32)
        known = stays == 0
        if GRID:
            s, lowest, highest = _grids(scale, low, high, group_of, grid_stride, places, n, row, inside)
        for j in range(W):
            if CHOOSE:  # noqa: SIM102 - known when compiled, the next line is not
                if j % M == 0:
                    limits = tl.load(diagonal + places * diagonal_stride, mask=places < n, other=1.0)
                    stays = _choose(strip, limits, known, stays, j, pruned, M, W, R)
            w = _column(strip, j)
            q = w * _column(stays, j)
            if GRID:
                q = _on_grid(q, _column(s, j), _column(lowest, j), _column(highest, j))
            strip = _spread_in_strip(strip, w - q, spread, spread_stride, j, base, n, W)
        solved = strip * stays  # a column stays as it was when its turn came
        if GRID:
            solved = _on_grid(solved, s, lowest, highest)
        if W < N:
            tile = _spread_beyond(tile, strip - solved, spread, spread_stride, base, n, W, N)
        total += _finish(
            solved, strip - solved, values, errors, diagonal, diagonal_stride, places, inside, n, rows, row
        )
    _add(loss, total, row, valid)


@triton.jit
def _choose(
    strip: tl.tensor, limits: tl.tensor, known: tl.tensor, stays: tl.tensor, first: tl.tensor, pruned: tl.tensor,
    M: tl.constexpr, W: tl.constexpr, R: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """`stays` [W, R] with the group of M columns from `first` on chosen: the `pruned` smallest (w / U_jj)² get zero.

    Those `known` to go come first, among equals the lower index.
    """
    columns = tl.arange(0, W)
    scores = tl.div_rn(strip, tl.broadcast_to(limits[:, None], [W, R]))
    scores = tl.where(known, -1.0, scores * scores)
    rank = tl.zeros([W, R], dtype=tl.int32)
    for other in range(first, first + M):
        score = _column(scores, other)
        before = (score[None, :] == scores) & (columns[:, None] > other)
        rank += ((score[None, :] < scores) | before).to(tl.int32)
    mine = (columns >= first) & (columns < first + M)
    return tl.where(mine[:, None], (rank >= pruned).to(tl.float32), stays)


@triton.jit
def _real_grid(low: tl.tensor, high: tl.tensor, LEVELS: tl.constexpr) -> tl.tensor:
    """(scale, zero) of the grid from `low` to `high`; where they are equal, from −1 to 1."""
    constant = low == high
    low = tl.where(constant, -1.0, low)
    high = tl.where(constant, 1.0, high)
    scale = tl.div_rn(high - low, tl.full(low.shape, LEVELS, tl.float32))
    return scale, tl.div_rn(-low, scale)


@triton.jit
def _nearest(x: tl.tensor, scale: tl.tensor, zero: tl.tensor, LEVELS: tl.constexpr) -> tl.tensor:
    """Nearest grid values; `x`, `scale` and `zero` have one shape, the zero point is added before rounding."""
    scale = tl.maximum(scale, SMALLEST_SCALE, propagate_nan=tl.PropagateNan.ALL)
    codes = _clamp(_round(tl.div_rn(x, scale) + zero), 0.0, LEVELS * 1.0)
    return scale * (codes - zero)


@triton.jit
def _cost(tile: tl.tensor, low: tl.tensor, high: tl.tensor, limits: tl.tensor, LEVELS: tl.constexpr) -> tl.tensor:
    """Squared error of every weight of `tile` [columns, rows] over U_jj, on the grid from `low` to `high` [rows]."""
    scale, zero = _real_grid(low, high, LEVELS)
    full = tl.broadcast_to(scale[None, :], tile.shape)
    error = _nearest(tile, full, tl.broadcast_to(zero[None, :], tile.shape), LEVELS) - tile
    error = tl.div_rn(error, tl.broadcast_to(limits[:, None], tile.shape))
    return error * error


@triton.jit
def _likely_outliers(
    tile: tl.tensor, inside: tl.tensor, columns: tl.tensor, limits: tl.tensor, tau: tl.tensor, LEVELS: tl.constexpr
) -> tl.tensor:
    """Which weights of the group lower its error by more than τ when left out; only the two ends change the grid."""
    low = tl.min(tl.where(inside, tile, float("inf")), axis=0)
    high = tl.max(tl.where(inside, tile, float("-inf")), axis=0)
    place = tl.broadcast_to(columns[:, None], tile.shape)
    first = tl.min(tl.where(inside & (tile == low[None, :]), place, 1 << 20), axis=0)
    last = tl.max(tl.where(inside & (tile == high[None, :]), place, -1), axis=0)
    others = inside & (place != first[None, :])
    next_low = tl.min(tl.where(others, tile, float("inf")), axis=0)
    gain = tl.where(inside, _cost(tile, low, high, limits, LEVELS), 0.0)
    total = tl.sum(gain, axis=0)
    without = tl.sum(tl.where(others, _cost(tile, next_low, high, limits, LEVELS), 0.0), axis=0)
    gain = tl.where(place == first[None, :], (total - without)[None, :], gain)
    others = inside & (place != last[None, :])
    next_high = tl.max(tl.where(others, tile, float("-inf")), axis=0)
    without = tl.sum(tl.where(others, _cost(tile, low, next_high, limits, LEVELS), 0.0), axis=0)
    gain = tl.where(place == last[None, :], (total - without)[None, :], gain)
    return inside & (gain > tau[None, :])


@triton.jit
def _statistics(
    x: tl.tensor, place: tl.tensor, SEGMENT: tl.constexpr, USED: tl.constexpr, LEVELS: tl.constexpr
) -> tl.tensor:
    """Scales or zero points [rows], rounded in segments of consecutive rows."""
    low = x
    high = x
    for number in range(USED // SEGMENT):
        mine = place // SEGMENT == number
        low = tl.where(mine, tl.min(tl.where(mine, x, float("inf")), axis=0), low)
        high = tl.where(mine, tl.max(tl.where(mine, x, float("-inf")), axis=0), high)
    scale, zero = _real_grid(low, high, LEVELS)
    return _nearest(x, scale, zero, LEVELS)


@triton.jit
def _group_grid(
    strip: tl.tensor, inside: tl.tensor, limits: tl.tensor, tau: tl.tensor, LEVELS: tl.constexpr,
    SCALE_LEVELS: tl.constexpr, ZERO_LEVELS: tl.constexpr, SEGMENT: tl.constexpr, USED: tl.constexpr,
    ROUND_ZERO: tl.constexpr, SEARCH: tl.constexpr, W: tl.constexpr, R: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """(scale, zero) [rows] of the columns `inside`: fitted without likely outliers, then themselves quantized."""
    place = tl.arange(0, R)
    shaping = strip
    if SEARCH:
        likely = _likely_outliers(strip, inside, tl.arange(0, W), limits, tau, LEVELS)
        stay = inside & (likely == 0)
        count = tl.sum(stay.to(tl.float32), axis=0)
        mean = tl.div_rn(tl.sum(tl.where(stay, strip, 0.0), axis=0), tl.maximum(count, 1.0))
        shaping = tl.where(likely, mean[None, :], strip)
    low = tl.min(tl.where(inside, shaping, float("inf")), axis=0)
    high = tl.max(tl.where(inside, shaping, float("-inf")), axis=0)
    scale, zero = _real_grid(low, high, LEVELS)
    if ROUND_ZERO:
        zero = _round(zero)
    if SCALE_LEVELS > 0:
        scale = _statistics(scale, place, SEGMENT, USED, SCALE_LEVELS)
    if ZERO_LEVELS > 0:
        zero = _statistics(zero, place, SEGMENT, USED, ZERO_LEVELS)
    return scale, zero


@triton.jit
def _spqr(
    block: tl.tensor,
    spread: tl.tensor,
    diagonal: tl.tensor,
    scales: tl.tensor,
    zeros: tl.tensor,
    threshold: tl.tensor,
    keep: tl.tensor,
    values: tl.tensor,
    errors: tl.tensor,
    outliers: tl.tensor,
    loss: tl.tensor,
    rows: tl.tensor,
    n: tl.tensor,
    group: tl.tensor,
    block_stride: tl.tensor,
    spread_stride: tl.tensor,
    diagonal_stride: tl.tensor,
    keep_stride: tl.tensor,
    LEVELS: tl.constexpr,
    SCALE_LEVELS: tl.constexpr,
    ZERO_LEVELS: tl.constexpr,
    SEGMENT: tl.constexpr,
    ROUND_ZERO: tl.constexpr,
    FIT: tl.constexpr,
    SEARCH: tl.constexpr,
    OUTLIERS: tl.constexpr,
    KEEP: tl.constexpr,
    USED: tl.constexpr,
    W: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
) -> None:
    columns, row, valid, held = _places(rows, n, USED, N, R)
    tile = _load(block, block_stride, columns, row, held)
    total = tl.zeros([R], tl.float32)
    tau = tl.full([R], float("inf"), tl.float32)
    if OUTLIERS:
        tau = tl.load(threshold + row, mask=valid, other=float("inf"))
    scale = tl.full([R], 1.0, tl.float32)
    zero = tl.zeros([R], tl.float32)
    if not FIT:
        scale = tl.load(scales + row, mask=valid, other=1.0)
        zero = tl.load(zeros + row, mask=valid, other=0.0)
    for base in range(0, n, W):
        strip = _strip(tile, base, W, N, R)
        places = base + tl.arange(0, W)
        inside = (places < n)[:, None] & valid[None, :]
        limits = tl.load(diagonal + places * diagonal_stride, mask=places < n, other=1.0)
        step = tl.broadcast_to(scale[None, :], [W, R])
        offset = tl.broadcast_to(zero[None, :], [W, R])
        kept = tl.full([W, R], 1.0, tl.float32)
        if KEEP:
            kept = _load(keep, keep_stride, places, row, inside).to(tl.float32)
        for j in range(W):
            if FIT:  # noqa: SIM102 - known when compiled, the next line is not
                if j % group == 0:
                    mine = tl.broadcast_to((tl.arange(0, W) // group == j // group)[:, None], [W, R])
                    scale, zero = _group_grid(
                        strip, mine, limits, tau,
                        LEVELS, SCALE_LEVELS, ZERO_LEVELS, SEGMENT, USED, ROUND_ZERO, SEARCH, W, R,
                    )  # fmt: skip
                    step = tl.where(mine, scale[None, :], step)
                    offset = tl.where(mine, zero[None, :], offset)
            w = _column(strip, j)
            limit = tl.full([R], 0.0, tl.float32) + tl.load(diagonal + _place(base + j, n) * diagonal_stride)
            q, outlier = _rounded(w, scale, zero, _column(kept, j) != 0, limit, tau, LEVELS, OUTLIERS, KEEP)
            strip = _spread_in_strip(strip, w - q, spread, spread_stride, j, base, n, W)
        solved, outlier = _rounded(  # a column stays as it was when its turn came
            strip, step, offset, kept != 0, tl.broadcast_to(limits[:, None], [W, R]),
            tl.broadcast_to(tau[None, :], [W, R]), LEVELS, OUTLIERS, KEEP,
        )  # fmt: skip
        if W < N:
            tile = _spread_beyond(tile, strip - solved, spread, spread_stride, base, n, W, N)
        if OUTLIERS:
            tl.store(outliers + places[:, None] * rows + row[None, :], outlier.to(tl.uint8), mask=inside)
        total += _finish(
            solved, strip - solved, values, errors, diagonal, diagonal_stride, places, inside, n, rows, row
        )
    _add(loss, total, row, valid)


@triton.jit
def _rounded(
    w: tl.tensor, scale: tl.tensor, zero: tl.tensor, kept: tl.tensor, limits: tl.tensor, tau: tl.tensor,
    LEVELS: tl.constexpr, OUTLIERS: tl.constexpr, KEEP: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """(new values, which of them are outliers); all arguments have the shape of `w`."""
    q = _nearest(w, scale, zero, LEVELS)
    if KEEP:
        q = tl.where(kept, q, q * 0.0)
    relative = tl.div_rn(w - q, limits)
    outlier = relative * relative > tau
    if KEEP:
        outlier = outlier & kept
    if OUTLIERS:
        q = tl.where(outlier, w, q)
    return q, outlier
