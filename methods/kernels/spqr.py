"""SpQR's column loop as a Triton kernel: grids of groups with their outliers searched and their statistics rounded.

`spqr_block` has the signature of its plain torch twin in `methods/numerics/spqr.py`; how strips of columns are solved
is in `methods/kernels/strips.py`. A group of 2, 4, ... 128 columns is a strip of its own, so the search for outliers
reads no more than the group; other sizes take the whole block for one strip. The hard case is what does not fit on the
chip, groups of more than 128 columns and statistics shared by more than 64 rows: their grids are fitted in torch.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from methods.kernels.strips import (
    LAUNCH,
    STRIP,
    WIDTH,
    add_to,
    as_stored,
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
    within,
)
from methods.numerics.blocks import ColumnBlock, push
from methods.numerics.spqr import SpQRRule, fit_group, rounded_grid

LARGEST_SEGMENT = 64  # rows that share second-level statistics and still fit one program
SMALLEST_SCALE = tl.constexpr(1e-9)
FINEST = tl.constexpr(2.0**-15)


def spqr_block(
    rule: SpQRRule,
    block: ColumnBlock,
    threshold: torch.Tensor | None,
    keep: torch.Tensor | None,
    outliers: torch.Tensor,
    fitted: torch.Tensor,
) -> torch.Tensor:
    """SpQR on one block of whole groups.

    `threshold` [rows] is the outlier threshold τ, `keep` [n, rows] marks weights that were not pruned, and outliers are
    marked in `outliers` [n, rows], false before. Scales and zero points as they were fitted are put into `fitted`
    [2, groups, rows]. Returns the errors e = (w − ŵ) / U_ii, [n, rows].
    """
    errors = torch.empty_like(block.weights)
    columns = errors.shape[0]
    group = rule.group_size or columns
    if group <= WIDTH and (not rule.bilevel or rule.statistics_group <= LARGEST_SEGMENT):
        for part in parts_of(columns, WIDTH // group * group):
            into = fitted[:, part.start // group : -(-part.stop // group)]
            _launch_spqr(rule, block, part, group, None, threshold, keep, errors, outliers, into)
            push(block.weights, block.upper, errors[part], part.start, part.stop)
        return errors
    for whole in parts_of(columns, group):  # a grid over more columns or rows than fit on the chip is given
        wide = block.part(whole)
        grid = fit_group(rule, wide.weights, wide.upper.diagonal(), threshold)
        fitted[0, whole.start // group], fitted[1, whole.start // group] = grid.scale, grid.zero
        grid = rounded_grid(rule, grid)
        for inner in parts_of(whole.stop - whole.start, WIDTH):
            part = slice(whole.start + inner.start, whole.start + inner.stop)
            _launch_spqr(rule, block, part, group, (grid.scale, grid.zero), threshold, keep, errors, outliers, fitted)
            push(block.weights, block.upper, errors[part], part.start, part.stop)
    return errors


def _launch_spqr(
    rule: SpQRRule,
    block: ColumnBlock,
    part: slice,
    group: int,
    grid: tuple[torch.Tensor, torch.Tensor] | None,
    threshold: torch.Tensor | None,
    keep: torch.Tensor | None,
    errors: torch.Tensor,
    outliers: torch.Tensor,
    fitted: torch.Tensor,
) -> None:
    """One launch of `_spqr` for the columns of `part`; with `grid` (scale, zero) [rows] nothing is fitted, otherwise
    what is goes to `fitted` [2, groups of `part`, rows]."""
    inner, launch = block.part(part), LAUNCH["spqr"]
    spread = inner.spread
    (n, rows), width = inner.weights.shape, padded(inner.weights.shape[0])
    segment = rule.statistics_group if rule.bilevel and grid is None else 1
    strip = STRIP  # with grids to fit, one group
    if grid is None:
        strip = group if group == triton.next_power_of_2(group) and group <= width else width
    held = max(launch.rows, triton.next_power_of_2(segment))
    used = held // segment * segment  # whole segments only
    zero_bits = rule.quantized_zero_bits
    search = threshold is not None and not rule.simplified_outliers and group > 1
    flags: dict[str, Any] = {
        "LEVELS": rule.levels,
        "SCALE_LEVELS": 2**rule.scale_bits - 1 if rule.scale_bits is not None else 0,
        "ZERO_LEVELS": 2**zero_bits - 1 if zero_bits is not None else 0,
        "SEGMENT": segment,
        "SCALE": rule.scale_dtype,
        "ROUND_ZERO": rule.round_zero,
        "FIT": grid is None,
        "SEARCH": search,
        "OUTLIERS": threshold is not None,
        "KEEP": keep is not None,
    }
    _spqr[(triton.cdiv(rows, used),)](
        inner.weights, spread, inner.upper,
        errors if grid is None else grid[0], errors if grid is None else grid[1],
        errors if threshold is None else threshold,
        errors if keep is None else keep[part].view(torch.uint8),
        inner.values, errors[part], outliers[part].view(torch.uint8), inner.loss, fitted[0], fitted[1],
        rows, n, group,
        inner.weights.stride(0), spread.stride(0), diagonal_step(inner), 0 if keep is None else keep.stride(0),
        **flags, USED=used, W=strip, N=width, R=held,
        num_warps=launch.warps * (held // launch.rows), enable_fp_fusion=False,
    )  # fmt: skip


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
    fitted_scales: tl.tensor,
    fitted_zeros: tl.tensor,
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
    SCALE: tl.constexpr,
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
    columns, row, valid, held = places_of(rows, n, USED, N, R)
    tile = loaded(block, block_stride, columns, row, held)
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
        strip = strip_of(tile, base, W, N, R)
        places = base + tl.arange(0, W)
        inside = (places < n)[:, None] & valid[None, :]
        limits = tl.load(diagonal + places * diagonal_stride, mask=places < n, other=1.0)
        step = tl.broadcast_to(scale[None, :], [W, R])
        offset = tl.broadcast_to(zero[None, :], [W, R])
        kept = tl.full([W, R], 1.0, tl.float32)
        if KEEP:
            kept = loaded(keep, keep_stride, places, row, inside).to(tl.float32)
        for j in range(W):
            if FIT:  # noqa: SIM102 - known when compiled, the next line is not
                if j % group == 0:
                    mine = tl.broadcast_to((tl.arange(0, W) // group == j // group)[:, None], [W, R])
                    first_scale, first_zero = _group_grid(
                        strip, mine, limits, tau, LEVELS, SCALE, ROUND_ZERO, SEARCH, W, R
                    )
                    there = valid & (tl.zeros([R], tl.int32) + (base + j) < n)
                    tl.store(fitted_scales + (base + j) // group * rows + row, first_scale, mask=there)
                    tl.store(fitted_zeros + (base + j) // group * rows + row, first_zero, mask=there)
                    scale, zero = _rounded_grid(
                        first_scale, first_zero, SCALE_LEVELS, ZERO_LEVELS, SEGMENT, SCALE, USED, R
                    )
                    step = tl.where(mine, scale[None, :], step)
                    offset = tl.where(mine, zero[None, :], offset)
            w = column_of(strip, j)
            limit = tl.full([R], 0.0, tl.float32) + tl.load(diagonal + within(base + j, n) * diagonal_stride)
            q, outlier = _rounded(w, scale, zero, column_of(kept, j) != 0, limit, tau, LEVELS, OUTLIERS, KEEP)
            strip = spread_in_strip(strip, w - q, spread, spread_stride, j, base, n, W)
        solved, outlier = _rounded(  # a column stays as it was when its turn came
            strip, step, offset, kept != 0, tl.broadcast_to(limits[:, None], [W, R]),
            tl.broadcast_to(tau[None, :], [W, R]), LEVELS, OUTLIERS, KEEP,
        )  # fmt: skip
        if W < N:
            tile = spread_beyond(tile, strip - solved, spread, spread_stride, base, n, W, N)
        if OUTLIERS:
            tl.store(outliers + places[:, None] * rows + row[None, :], outlier.to(tl.uint8), mask=inside)
        total += store_strip(
            solved, strip - solved, values, errors, diagonal, diagonal_stride, places, inside, n, rows, row
        )
    add_to(loss, total, row, valid)


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


@triton.jit
def _group_grid(
    strip: tl.tensor, inside: tl.tensor, limits: tl.tensor, tau: tl.tensor, LEVELS: tl.constexpr,
    SCALE: tl.constexpr, ROUND_ZERO: tl.constexpr, SEARCH: tl.constexpr, W: tl.constexpr, R: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """(scale, zero) [rows] of the columns `inside`, fitted without likely outliers."""
    shaping = strip
    if SEARCH:
        likely = _likely_outliers(strip, inside, tl.arange(0, W), limits, tau, LEVELS)
        stay = inside & (likely == 0)
        count = tl.sum(stay.to(tl.float32), axis=0)
        mean = tl.div_rn(tl.sum(tl.where(stay, strip, 0.0), axis=0), tl.maximum(count, 1.0))
        shaping = tl.where(likely, mean[None, :], strip)
    low = tl.min(tl.where(inside, shaping, float("inf")), axis=0)
    high = tl.max(tl.where(inside, shaping, float("-inf")), axis=0)
    scale, zero = _real_grid(low, high, LEVELS, SCALE)
    if ROUND_ZERO:
        zero = nearest_integer(zero)
    return scale, zero


@triton.jit
def _rounded_grid(
    scale: tl.tensor, zero: tl.tensor, SCALE_LEVELS: tl.constexpr, ZERO_LEVELS: tl.constexpr,
    SEGMENT: tl.constexpr, SCALE: tl.constexpr, USED: tl.constexpr, R: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """(scale, zero) [rows], themselves quantized as far as there are levels for them."""
    place = tl.arange(0, R)
    if SCALE_LEVELS > 0:
        scale = _statistics(scale, place, SEGMENT, SCALE, USED, SCALE_LEVELS)
    if ZERO_LEVELS > 0:
        zero = _statistics(zero, place, SEGMENT, SCALE, USED, ZERO_LEVELS)
    return scale, zero


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
def _cost(tile: tl.tensor, low: tl.tensor, high: tl.tensor, limits: tl.tensor, LEVELS: tl.constexpr) -> tl.tensor:
    """Squared error of every weight of `tile` [columns, rows] over U_jj, on the grid from `low` to `high` [rows]."""
    scale, zero = _real_grid(low, high, LEVELS, "float32")
    full = tl.broadcast_to(scale[None, :], tile.shape)
    error = _nearest(tile, full, tl.broadcast_to(zero[None, :], tile.shape), LEVELS) - tile
    error = tl.div_rn(error, tl.broadcast_to(limits[:, None], tile.shape))
    return error * error


@triton.jit
def _statistics(
    x: tl.tensor, place: tl.tensor, SEGMENT: tl.constexpr, SCALE: tl.constexpr, USED: tl.constexpr, LEVELS: tl.constexpr
) -> tl.tensor:
    """Scales or zero points [rows], rounded in segments of consecutive rows."""
    low = x
    high = x
    for number in range(USED // SEGMENT):
        mine = place // SEGMENT == number
        low = tl.where(mine, tl.min(tl.where(mine, x, float("inf")), axis=0), low)
        high = tl.where(mine, tl.max(tl.where(mine, x, float("-inf")), axis=0), high)
    scale, zero = _real_grid(low, high, LEVELS, SCALE)
    return _nearest(x, scale, zero, LEVELS)


@triton.jit
def _real_grid(low: tl.tensor, high: tl.tensor, LEVELS: tl.constexpr, SCALE: tl.constexpr) -> tl.tensor:
    """(scale, zero) of the grid from `low` to `high`, as SCALE stores them; where they are equal, from −1 to 1."""
    constant = low == high
    low = tl.where(constant, -1.0, low)
    high = tl.where(constant, 1.0, high)
    scale = tl.div_rn(high - low, tl.full(low.shape, LEVELS, tl.float32))
    if SCALE != "float32":
        scale = tl.maximum(scale, tl.maximum(tl.abs(low), tl.abs(high)) * FINEST, propagate_nan=tl.PropagateNan.ALL)
        scale = stored_scale(scale, SCALE)
    return scale, as_stored(tl.div_rn(-low, scale), SCALE)


@triton.jit
def _nearest(x: tl.tensor, scale: tl.tensor, zero: tl.tensor, LEVELS: tl.constexpr) -> tl.tensor:
    """Nearest grid values; `x`, `scale` and `zero` have one shape, the zero point is added before rounding."""
    scale = tl.maximum(scale, SMALLEST_SCALE, propagate_nan=tl.PropagateNan.ALL)
    codes = clamped(nearest_integer(tl.div_rn(x, scale) + zero), 0.0, LEVELS * 1.0)
    return scale * (codes - zero)
