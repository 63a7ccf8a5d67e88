"""The column loops of GPTQ, SparseGPT and SpQR as Triton kernels, one launch for a block of up to 128 columns.

Rows are independent, so a program takes a few rows, holds their part of the block on the chip, [columns, rows], and
goes from column to column: round or prune, and spread the error over the columns still to come. The errors come back,
so that the update of all later blocks stays one matrix product. The functions here have the signatures of the plain
torch twins in `methods/columns.py` and `methods/spqr.py`.

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

from methods.columns import PruneRule, group_mask, push, spread_of

if TYPE_CHECKING:
    from methods.spqr import SpQR

WIDTH = 128  # columns of one launch: with 16 rows they fill 64 registers of a thread of one warp
INTEGERS = tl.constexpr(8388608.0)  # 2^23: float32 numbers from here on are whole
SMALLEST_SCALE = tl.constexpr(1e-9)


@dataclass(frozen=True)
class Launch:
    """Rows of one program (a power of two) and its warps."""

    rows: int
    warps: int


LAUNCH = {"quantize": Launch(16, 1), "prune": Launch(16, 2), "spqr": Launch(32, 4)}


def quantize_block(
    block: torch.Tensor,
    upper: torch.Tensor,
    scale: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    keep: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """GPTQ on one block of n columns: all arguments [n, rows] but `upper` [n, n]. `block` is used up.

    Returns the quantized columns and the errors e = (w − q) / U_ii, both [n, rows].
    """
    values, errors = torch.empty_like(block), torch.empty_like(block)
    rows, launch = block.shape[1], LAUNCH["quantize"]
    for part in _parts(block.shape[0], WIDTH):
        factor, n = upper[part, part], part.stop - part.start
        _quantize[(triton.cdiv(rows, launch.rows),)](
            block[part], spread_of(factor), factor.diagonal().contiguous(),
            scale[part], low[part], high[part], block if keep is None else keep[part],
            values[part], errors[part],
            rows, n, block.stride(0),
            scale.stride(0), low.stride(0), high.stride(0), 0 if keep is None else keep.stride(0),
            KEEP=keep is not None, N=_padded(n), R=launch.rows,
            num_warps=launch.warps, enable_fp_fusion=False,
        )  # fmt: skip
        push(block, upper, errors[part], part.start, part.stop)
    return values, errors


def prune_block(block: torch.Tensor, upper: torch.Tensor, rule: PruneRule) -> tuple[torch.Tensor, torch.Tensor]:
    """SparseGPT on one block of n columns [n, rows] with `upper` [n, n]; `block` is used up.

    Returns the new columns and the errors, both [n, rows].
    """
    values, errors = torch.empty_like(block), torch.empty_like(block)
    group = 1 if rule.kept_of is None else rule.kept_of[1]
    width = group if group > WIDTH else WIDTH // group * group
    for part in _parts(block.shape[0], width):
        inside, columns, factor = rule.part(part), block[part], upper[part, part]
        if group > WIDTH:  # too wide to choose on the chip: choose, then solve with that mask
            assert inside.kept_of is not None
            chosen = group_mask(columns, factor.diagonal(), inside.kept_of, inside.forced)
            known = replace(inside, mask=chosen, kept_of=None, forced=None)
            values[part], errors[part] = prune_block(columns, factor, known)
        else:
            _launch_prune(columns, factor, inside, values[part], errors[part])
        push(block, upper, errors[part], part.start, part.stop)
    return values, errors


def spqr_block(
    method: SpQR, block: torch.Tensor, upper: torch.Tensor, threshold: torch.Tensor | None, keep: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """SpQR on one block of n columns [n, rows], whole groups, with `upper` [n, n]; `block` is used up.

    `threshold` [rows] is the outlier threshold τ, `keep` [n, rows] marks weights that were not pruned. Returns values,
    errors e = (w − ŵ) / U_ii and outliers, each [n, rows].
    """
    values, errors = torch.empty_like(block), torch.empty_like(block)
    outliers = torch.zeros_like(block, dtype=torch.uint8)
    group = method.group_size or block.shape[0]
    results = (values, errors, outliers)
    if group <= WIDTH and (not method.bilevel or method.statistics_group <= LARGEST_SEGMENT):
        for part in _parts(block.shape[0], WIDTH // group * group):
            _launch_spqr(method, block, upper, part, group, None, threshold, keep, results)
            push(block, upper, errors[part], part.start, part.stop)
        return values, errors, outliers.view(torch.bool)
    for whole in _parts(block.shape[0], group):  # a grid over more columns or rows than fit on the chip is given
        grid = method.fit(block[whole], upper[whole, whole].diagonal(), threshold)
        for inner in _parts(whole.stop - whole.start, WIDTH):
            part = slice(whole.start + inner.start, whole.start + inner.stop)
            _launch_spqr(method, block, upper, part, group, (grid.scale, grid.zero), threshold, keep, results)
            push(block, upper, errors[part], part.start, part.stop)
    return values, errors, outliers.view(torch.bool)


LARGEST_SEGMENT = 64  # rows that share second-level statistics and still fit one program


def _parts(n: int, width: int) -> Iterator[slice]:
    """Consecutive slices of at most `width` that cover n columns."""
    for start in range(0, n, width):
        yield slice(start, min(start + width, n))


def _padded(n: int) -> int:
    """A power of two that holds n columns; few different ones, as each is a compiled kernel."""
    return max(16, triton.next_power_of_2(n))


def _launch_prune(
    block: torch.Tensor, factor: torch.Tensor, rule: PruneRule, values: torch.Tensor, errors: torch.Tensor
) -> None:
    """One launch of `_prune` for the n columns of `block` [n, rows]; `values` and `errors` receive them."""
    (n, rows), launch = block.shape, LAUNCH["prune"]
    gone = rule.forced if rule.kept_of is not None else rule.mask  # what is known to go before the loop starts
    scale, low, high = rule.grid or (block, block, block)
    strides = (0, 0, 0) if rule.grid is None else (scale.stride(0), low.stride(0), high.stride(0))
    _prune[(triton.cdiv(rows, launch.rows),)](
        block, spread_of(factor), factor.diagonal().contiguous(),
        block if gone is None else gone.view(torch.uint8),
        scale, low, high, values, errors,
        rows, n, block.stride(0), 0 if gone is None else gone.stride(0), *strides,
        n if rule.kept_of is None else rule.kept_of[1],
        0 if rule.kept_of is None else rule.kept_of[1] - rule.kept_of[0],
        CHOOSE=rule.kept_of is not None, GONE=gone is not None, GRID=rule.grid is not None,
        N=_padded(n), R=launch.rows, num_warps=launch.warps, enable_fp_fusion=False,
    )  # fmt: skip


def _launch_spqr(
    method: SpQR,
    block: torch.Tensor,
    upper: torch.Tensor,
    part: slice,
    group: int,
    grid: tuple[torch.Tensor, torch.Tensor] | None,
    threshold: torch.Tensor | None,
    keep: torch.Tensor | None,
    results: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    """One launch of `_spqr` for the columns of `part`; with `grid` (scale, zero) [rows] nothing is fitted."""
    rows, n = block.shape[1], part.stop - part.start
    factor, launch = upper[part, part], LAUNCH["spqr"]
    values, errors, outliers = results
    segment = method.statistics_group if method.bilevel and grid is None else 1
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
        block[part], spread_of(factor), factor.diagonal().contiguous(),
        block if grid is None else grid[0], block if grid is None else grid[1],
        block if threshold is None else threshold,
        block if keep is None else keep[part].view(torch.uint8),
        values[part], errors[part], outliers[part],
        rows, n, group if grid is None else n, block.stride(0), 0 if keep is None else keep.stride(0),
        **flags, USED=used, N=_padded(n), R=held, num_warps=launch.warps, enable_fp_fusion=False,
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
def _column(tile: tl.tensor, columns: tl.tensor, j: tl.tensor) -> tl.tensor:
    """Column j of `tile` [columns, rows]."""
    return tl.sum(tl.where(columns[:, None] == j, tile, 0.0), axis=0)


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
def _row_grid(scale: tl.tensor, low: tl.tensor, high: tl.tensor, row: tl.tensor, valid: tl.tensor) -> tl.tensor:
    """(scale, low, high) [rows] of one column, from the addresses of its first row."""
    s = tl.load(scale + row, mask=valid, other=1.0)
    return s, tl.load(low + row, mask=valid, other=0.0), tl.load(high + row, mask=valid, other=0.0)


@triton.jit
def _on_grid(x: tl.tensor, scale: tl.tensor, low: tl.tensor, high: tl.tensor) -> tl.tensor:
    """Nearest values of an integer grid whose `low` and `high` bound what multiplies the scale."""
    return _clamp(_round(tl.div_rn(x, scale)), low, high) * scale


@triton.jit
def _settle(
    tile: tl.tensor,
    factors: tl.tensor,
    q: tl.tensor,
    e: tl.tensor,
    limit: tl.tensor,
    values: tl.tensor,
    errors: tl.tensor,
    valid: tl.tensor,
) -> tl.tensor:
    """Store a solved column and its error over U_jj; returns the tile with the error spread over the later columns."""
    tl.store(values, q, mask=valid)
    tl.store(errors, tl.div_rn(e, limit), mask=valid)
    return tl.fma(factors[:, None], e[None, :], tile)


@triton.jit
def _quantize(
    block: tl.tensor,
    spread: tl.tensor,
    diagonal: tl.tensor,
    scale: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    keep: tl.tensor,
    values: tl.tensor,
    errors: tl.tensor,
    rows: tl.tensor,
    n: tl.tensor,
    block_stride: tl.tensor,
    scale_stride: tl.tensor,
    low_stride: tl.tensor,
    high_stride: tl.tensor,
    keep_stride: tl.tensor,
    KEEP: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
) -> None:
    columns, row, valid, held = _places(rows, n, R, N, R)
    tile = _load(block, block_stride, columns, row, held)
    for j in range(n):
        factors = tl.load(spread + j * n + columns, mask=columns < n, other=0.0)
        s, lowest, highest = _row_grid(
            scale + j * scale_stride, low + j * low_stride, high + j * high_stride, row, valid
        )
        w = _column(tile, columns, j)
        q = _on_grid(w, s, lowest, highest)
        if KEEP:
            q = q * tl.load(keep + j * keep_stride + row, mask=valid, other=0.0)
        place = j * rows + row
        tile = _settle(tile, factors, q, w - q, tl.load(diagonal + j), values + place, errors + place, valid)


@triton.jit
def _prune(
    block: tl.tensor,
    spread: tl.tensor,
    diagonal: tl.tensor,
    gone: tl.tensor,
    scale: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    values: tl.tensor,
    errors: tl.tensor,
    rows: tl.tensor,
    n: tl.tensor,
    block_stride: tl.tensor,
    gone_stride: tl.tensor,
    scale_stride: tl.tensor,
    low_stride: tl.tensor,
    high_stride: tl.tensor,
    group: tl.tensor,
    pruned: tl.tensor,
    CHOOSE: tl.constexpr,
    GONE: tl.constexpr,
    GRID: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
) -> None:
    columns, row, valid, held = _places(rows, n, R, N, R)
    tile = _load(block, block_stride, columns, row, held)
    limits = tl.load(diagonal + columns, mask=columns < n, other=1.0)
    known = tl.zeros([N, R], dtype=tl.int32)
    if GONE:
        known = _load(gone, gone_stride, columns, row, held).to(tl.int32)
    for first in range(0, n, group):
        stays = 1 - known
        if CHOOSE:  # the smallest (w / U_jj)² of the group, those known to go first, among equals the lower index
            scores = tl.div_rn(tile, tl.broadcast_to(limits[:, None], [N, R]))
            scores = tl.where(known != 0, -1.0, scores * scores)
            rank = tl.zeros([N, R], dtype=tl.int32)
            for other in range(first, first + group):
                score = _column(scores, columns, other)
                before = (score[None, :] == scores) & (columns[:, None] > other)
                rank += ((score[None, :] < scores) | before).to(tl.int32)
            stays = (rank >= pruned).to(tl.int32)
        for j in range(first, first + group):
            factors = tl.load(spread + j * n + columns, mask=columns < n, other=0.0)
            w = _column(tile, columns, j)
            q = w * tl.sum(tl.where(columns[:, None] == j, stays, 0), axis=0).to(tl.float32)
            if GRID:
                s, lowest, highest = _row_grid(
                    scale + j * scale_stride, low + j * low_stride, high + j * high_stride, row, valid
                )
                q = _on_grid(q, s, lowest, highest)
            place = j * rows + row
            tile = _settle(tile, factors, q, w - q, tl.load(diagonal + j), values + place, errors + place, valid)


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
    tile: tl.tensor,
    inside: tl.tensor,
    columns: tl.tensor,
    limits: tl.tensor,
    tau: tl.tensor,
    LEVELS: tl.constexpr,
    SCALE_LEVELS: tl.constexpr,
    ZERO_LEVELS: tl.constexpr,
    SEGMENT: tl.constexpr,
    USED: tl.constexpr,
    ROUND_ZERO: tl.constexpr,
    SEARCH: tl.constexpr,
    R: tl.constexpr,
) -> tl.tensor:
    """(scale, zero) [rows] of a group: fitted without likely outliers, then itself quantized."""
    place = tl.arange(0, R)
    shaping = tile
    if SEARCH:
        likely = _likely_outliers(tile, inside, columns, limits, tau, LEVELS)
        stay = inside & (likely == 0)
        count = tl.sum(stay.to(tl.float32), axis=0)
        mean = tl.div_rn(tl.sum(tl.where(stay, tile, 0.0), axis=0), tl.maximum(count, 1.0))
        shaping = tl.where(likely, mean[None, :], tile)
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
    rows: tl.tensor,
    n: tl.tensor,
    group: tl.tensor,
    block_stride: tl.tensor,
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
    N: tl.constexpr,
    R: tl.constexpr,
) -> None:
    columns, row, valid, held = _places(rows, n, USED, N, R)
    tile = _load(block, block_stride, columns, row, held)
    limits = tl.load(diagonal + columns, mask=columns < n, other=1.0)
    tau = tl.full([R], float("inf"), tl.float32)
    if OUTLIERS:
        tau = tl.load(threshold + row, mask=valid, other=float("inf"))
    scale = tl.full([R], 1.0, tl.float32)
    zero = tl.zeros([R], tl.float32)
    if not FIT:
        scale = tl.load(scales + row, mask=valid, other=1.0)
        zero = tl.load(zeros + row, mask=valid, other=0.0)
    for first in range(0, n, group):
        if FIT:
            inside = tl.broadcast_to((columns >= first)[:, None] & (columns < first + group)[:, None], [N, R])
            scale, zero = _group_grid(
                tile, inside, columns, limits, tau,
                LEVELS, SCALE_LEVELS, ZERO_LEVELS, SEGMENT, USED, ROUND_ZERO, SEARCH, R,
            )  # fmt: skip
        for j in range(first, first + group):
            factors = tl.load(spread + j * n + columns, mask=columns < n, other=0.0)
            limit = tl.load(diagonal + j)
            place = j * rows + row
            w = _column(tile, columns, j)
            q = _nearest(w, scale, zero, LEVELS)
            if KEEP:
                kept = tl.load(keep + j * keep_stride + row, mask=valid, other=0) != 0
                q = tl.where(kept, q, q * 0.0)
            e = w - q
            if OUTLIERS:
                relative = tl.div_rn(e, limit)
                outlier = relative * relative > tau
                if KEEP:
                    outlier = outlier & kept
                q = tl.where(outlier, w, q)
                e = tl.where(outlier, 0.0, e)
                tl.store(outliers + place, outlier.to(tl.uint8), mask=valid)
            tile = _settle(tile, factors, q, e, limit, values + place, errors + place, valid)
