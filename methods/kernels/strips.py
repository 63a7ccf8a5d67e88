"""What the column kernels share: strips of a tile of weights, and how a solved column's error spreads.

Rows are independent, so a program takes a few rows, holds their part of the block on the chip, [columns, rows], and
goes from column to column: round or prune, and spread the error over the columns still to come. It does so in strips of
16 columns: a column's error reaches the rest of its strip at once, since the next column waits for it, and the later
strips when the strip is done. The errors come back, so that the update of all later blocks stays one matrix product.

The hard case is agreeing with the twin in plain torch: a different last bit turns a tie into another code, and the rest
of that row follows. Hence division rounds correctly, rounding is half to even, products and sums are fused only where
the update of a column says so, and comparisons break ties by index as there.

Words of this room: a *tile* is what a program holds on the chip, [columns, rows]; a *strip* is 16 columns of it; a
*launch* is the rows and warps of one program.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import triton
import triton.language as tl

from methods.numerics.blocks import ColumnBlock

WIDTH = 128  # columns of one launch: with 16 rows they fill 64 registers of a thread of one warp
STRIP = 16  # columns that are solved together; what they mean for the other columns is added when they are done
INTEGERS = tl.constexpr(8388608.0)  # 2^23: float32 numbers from here on are whole


@dataclass(frozen=True)
class Launch:
    """Rows of one program (a power of two) and its warps."""

    rows: int
    warps: int


LAUNCH = {"quantize": Launch(16, 1), "prune": Launch(16, 1), "spqr": Launch(16, 1), "fit": Launch(64, 4)}


def parts_of(n: int, width: int) -> Iterator[slice]:
    """Consecutive slices of at most `width` that cover n columns."""
    for start in range(0, n, width):
        yield slice(start, min(start + width, n))


def padded(n: int) -> int:
    """A power of two that holds n columns; few different ones, as each is a compiled kernel."""
    return max(16, triton.next_power_of_2(n))


def diagonal_step(block: ColumnBlock) -> int:
    """From one entry of U's diagonal to the next, in numbers."""
    return sum(block.upper.stride())


@triton.jit
def nearest_integer(x: tl.tensor) -> tl.tensor:
    """The nearest integer, half to even."""
    size = tl.abs(x)
    whole = tl.where(size < INTEGERS, (size + INTEGERS) - INTEGERS, size)
    return tl.where(x < 0, -whole, whole)


@triton.jit
def clamped(x: tl.tensor, low: tl.tensor, high: tl.tensor) -> tl.tensor:
    """`x` between `low` and `high`; NaN stays NaN, so that a failure shows."""
    raised = tl.maximum(x, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(raised, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def as_stored(x: tl.tensor, DTYPE: tl.constexpr) -> tl.tensor:
    """float32 `x` rounded to what the type of that name holds, half to even."""
    if DTYPE == "float16":
        x = x.to(tl.float16).to(tl.float32)
    if DTYPE == "bfloat16":  # in bits, since Triton's interpreter cuts them off
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 32767 + ((bits >> 16) & 1)) & -65536
        x = bits.to(tl.float32, bitcast=True)
    return x


@triton.jit
def stored_scale(x: tl.tensor, DTYPE: tl.constexpr) -> tl.tensor:
    """The scale `x` as stored, at least the smallest one that can be divided by (see `methods/numerics/grids.py`)."""
    smallest = 1.1754943508222875e-38
    if DTYPE == "float16":
        smallest = 5.960464477539063e-08
    return tl.maximum(as_stored(x, DTYPE), smallest, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def column_of(tile: tl.tensor, j: tl.tensor) -> tl.tensor:
    """Column j of `tile` [columns, rows]."""
    return tl.sum(tl.where(tl.arange(0, tile.shape[0])[:, None] == j, tile, 0.0), axis=0)


@triton.jit
def places_of(rows: tl.tensor, n: tl.tensor, USED: tl.constexpr, N: tl.constexpr, R: tl.constexpr) -> tl.tensor:
    """Columns [N] of the block, rows [R] of the weight, and which of these rows and entries [N, R] there are."""
    columns = tl.arange(0, N)
    place = tl.arange(0, R)
    row = tl.program_id(0) * USED + place
    valid = (row < rows) & (place < USED)
    return columns, row, valid, (columns[:, None] < n) & valid[None, :]


@triton.jit
def loaded(part: tl.tensor, stride: tl.tensor, columns: tl.tensor, row: tl.tensor, held: tl.tensor) -> tl.tensor:
    """The program's entries [columns, rows] of `part`, zero where there is none."""
    return tl.load(part + columns[:, None] * stride + row[None, :], mask=held, other=0)


@triton.jit
def strip_of(tile: tl.tensor, base: tl.tensor, W: tl.constexpr, N: tl.constexpr, R: tl.constexpr) -> tl.tensor:
    """The W columns of `tile` [N, R] from column `base` on, a multiple of W."""
    if W == N:
        return tile
    mine = tl.arange(0, N // W)[:, None, None] == base // W
    return tl.sum(tl.where(mine, tl.reshape(tile, [N // W, W, R]), 0.0), axis=0)


@triton.jit
def within(j: tl.tensor, n: tl.tensor) -> tl.tensor:
    """Where to read what belongs to column j of n; a strip may reach beyond the last one, and what is read for that
    column meets a weight of zero and is not stored."""
    return tl.minimum(j, n - 1)


@triton.jit
def spread_in_strip(
    strip: tl.tensor, e: tl.tensor, spread: tl.tensor, stride: tl.tensor, j: tl.tensor, base: tl.tensor, n: tl.tensor,
    W: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """`strip` [W, rows] with the error `e` [rows] of its column j spread over its later columns."""
    place = base + tl.arange(0, W)
    factors = tl.load(spread + within(base + j, n) * stride + place, mask=place < n, other=0.0)
    return tl.fma(factors[:, None], e[None, :], strip)


@triton.jit
def spread_beyond(
    tile: tl.tensor, e: tl.tensor, spread: tl.tensor, stride: tl.tensor, base: tl.tensor, n: tl.tensor,
    W: tl.constexpr, N: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """`tile` [N, rows] with the errors `e` [W, rows] of the strip at `base` spread over the columns after the strip."""
    columns = tl.arange(0, N)
    for j in range(W):
        later = (columns >= base + W) & (columns < n)
        factors = tl.load(spread + (base + j) * stride + columns, mask=later, other=0.0)
        tile = tl.fma(factors[:, None], column_of(e, j)[None, :], tile)
    return tile


@triton.jit
def store_strip(
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
def add_to(total: tl.tensor, part: tl.tensor, row: tl.tensor, valid: tl.tensor) -> None:
    """Add `part` [rows] to the program's rows of `total`."""
    tl.store(total + row, tl.load(total + row, mask=valid, other=0.0) + part, mask=valid)
