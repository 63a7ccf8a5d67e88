"""The k-th smallest of float32 scores as Triton kernels: exact, a few passes over the scores, nothing is sorted.

Scores are at least zero, or −1 for what must go, so their bits, read as integers, are ordered as they are (`_key`). A
pass counts, among the scores that agree with the bits found so far, how many fall into each bin of the next bits; the
launch after it begins by choosing the bin that holds the k-th. Several rows, or the matrices stacked in a column block
(`segments`), are searched side by side. Counts are integers, so their order does not matter.

The hard case is many equal scores: a bin is an address, and additions to one address wait for one another. So a program
counts its scores on the chip and adds each bin once, and scores are added one by one only when few are left. NaN counts
as the largest score and is never marked, so that a failure shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

WIDEST_ROW = 32768  # scores of a row that a program holds in registers
KEY_BITS = tl.constexpr(31)
NAN = tl.constexpr(0x7F800002)  # the key of NaN, one above that of infinity
OUTSIDE = tl.constexpr(0x7FFFFFFF)  # above every key
HIGHEST = tl.constexpr(1 << 30)  # the highest bit of a key


@dataclass(frozen=True)
class Launch:
    """Bits found by a pass, scores of a tile (a power of two), warps of a program, and programs of a pass at most.

    A program goes through several tiles when there are more of them than programs. Once `few` scores or fewer are left
    they are added one by one.
    """

    bits: int
    tile: int
    warps: int
    programs: int
    few: int


LAUNCH = Launch(8, 2048, 4, 1024, 1 << 13)
ROW_SCORES_OF_A_WARP = 1024  # 32 of a thread: their keys stay in registers


def kth_smallest(scores: torch.Tensor, k: int) -> torch.Tensor:
    """The k-th smallest (from 1) of scores [..., n] along the last axis, [..., 1]. Fewer than 2³⁰ scores."""
    flat, size = scores.contiguous().view(1, -1), scores.shape[-1]
    search = _Search(flat, None, None, scores.numel() // size, (size,), (k,))
    found = torch.empty(*scores.shape[:-1], 1, dtype=torch.float32, device=scores.device)
    _threshold[(found.numel(),)](search.work, found, BITS=LAUNCH.bits, PASSES=search.passes, num_warps=1)
    return found


def block_mask(
    block: torch.Tensor,
    diagonal: torch.Tensor,
    segments: Sequence[int],
    ranks: Sequence[int],
    forced: torch.Tensor | None,
) -> torch.Tensor:
    """Mask [n, rows] of the weights of `block` with (w / U_jj)² up to the one at sorted position `rank` (from 1).

    `diagonal` [n] is U_jj; `segments` are the numbers of rows that compete, each with its own rank; `forced` [n, rows]
    entries come first. Fewer than 2³⁰ weights.
    """
    block = block if block.stride(1) == 1 else block.contiguous()
    forced = forced if forced is None or forced.stride(1) == 1 else forced.contiguous()
    mask = torch.empty(block.shape, dtype=torch.bool, device=block.device)
    alike = len(set(zip(segments, ranks, strict=True))) == 1
    sizes, places = (tuple(part[:1] if alike else part) for part in (segments, ranks))
    search = _Search(block, diagonal, forced, len(segments), sizes, places)
    _mark[search.grid](*search.inputs, mask.view(torch.uint8), mask.stride(0), **search.flags)
    return mask


def smallest_of_rows(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Mask of the `count` smallest scores of each row [..., n], n up to `WIDEST_ROW`; the lower index goes first."""
    scores = scores.contiguous()
    mask = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    cols = scores.shape[-1]
    padded = max(128, triton.next_power_of_2(cols))
    _mark_row[(scores.numel() // cols,)](
        scores, mask.view(torch.uint8), cols, count,
        N=padded, num_warps=min(16, max(1, padded // ROW_SCORES_OF_A_WARP)),
    )  # fmt: skip
    return mask


class _Search:
    """The passes over `source` [n, rows], launched; `work` then holds every segment's counts and what was found.

    `sizes` are the segments' numbers of rows and `ranks` what is asked of them, a single one for all that are alike.
    """

    def __init__(
        self,
        source: torch.Tensor,
        diagonal: torch.Tensor | None,
        forced: torch.Tensor | None,
        count: int,
        sizes: tuple[int, ...],
        ranks: tuple[int, ...],
    ) -> None:
        columns = source.shape[0]
        self.passes = triton.cdiv(KEY_BITS.value, LAUNCH.bits)
        self.work = torch.zeros(count, self.passes + 1, 1 << LAUNCH.bits, dtype=torch.int32, device=source.device)
        self.inputs = (
            source,
            source if diagonal is None else diagonal,
            source if forced is None else forced.view(torch.uint8),
            self.work,
            columns,
            source.stride(0),
            0 if diagonal is None else diagonal.stride(0),
            0 if forced is None else forced.stride(0),
            sizes,
        )
        height = min(triton.next_power_of_2(columns), LAUNCH.tile // 128)  # rows are neighbours in memory
        width = LAUNCH.tile // height
        tiles = max(1, triton.cdiv(columns, height) * triton.cdiv(max(sizes), width))
        each = triton.cdiv(tiles * count, LAUNCH.programs)
        self.grid = (count, triton.cdiv(tiles, each))
        self.flags = {
            "SCALED": diagonal is not None, "FORCED": forced is not None, "BITS": LAUNCH.bits, "PASSES": self.passes,
            "C": height, "R": width, "num_warps": LAUNCH.warps, "enable_fp_fusion": False,
        }  # fmt: skip
        odd = tuple(2 * rank + 1 for rank in ranks)  # Triton compiles again for an argument of 1 or divisible by 16
        for number in range(self.passes):
            _count[self.grid](*self.inputs, odd, number, LAUNCH.few, FIRST=number == 0, **self.flags)


@triton.jit
def _key(score: tl.tensor) -> tl.tensor:
    """An integer of 31 bits, ordered as the scores are: 0 for negative ones, 1 for zero, `NAN` for NaN."""
    size = score.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.where(score < 0, 0, tl.minimum(size, NAN - 1) + 1)


@triton.jit
def _score(key: tl.tensor) -> tl.tensor:
    """The score of a key, −1 for 0."""
    return tl.where(key > 0, tl.maximum(key - 1, 0).to(tl.float32, bitcast=True), -1.0)


@triton.jit
def _rows_of(segment: tl.tensor, sizes: tl.tensor) -> tl.tensor:
    """(first, stop) of a segment's rows; a single size is that of all segments."""
    if len(sizes) == 1:
        first = segment * sizes[0]
        stop = first + sizes[0]
    else:
        first = segment * 0
        stop = first
        for number in tl.static_range(len(sizes)):
            first += tl.where(number < segment, sizes[number], 0)
            stop += tl.where(number <= segment, sizes[number], 0)
    return first, stop


@triton.jit
def _rank_of(segment: tl.tensor, odd: tl.tensor) -> tl.tensor:
    """What is asked of a segment, from 2 · rank + 1 of all; a single one is that of all segments."""
    chosen = segment * 0 + odd[0]
    for number in tl.static_range(1, len(odd)):
        chosen = tl.where(number == segment, odd[number], chosen)
    return chosen >> 1


@triton.jit
def _tile(
    number: tl.tensor,
    source: tl.tensor,
    diagonal: tl.tensor,
    forced: tl.tensor,
    columns: tl.tensor,
    stride: tl.tensor,
    diagonal_stride: tl.tensor,
    forced_stride: tl.tensor,
    first: tl.tensor,
    stop: tl.tensor,
    SCALED: tl.constexpr,
    FORCED: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
) -> tl.tensor:
    """(scores [C, R], which of them there are, their columns [C, 1] and rows [1, R]) of one tile of a segment."""
    across = tl.cdiv(columns, C)
    column = (number % across * C + tl.arange(0, C))[:, None]
    row = (first + number // across * R + tl.arange(0, R))[None, :]
    inside = (column < columns) & (row < stop)
    score = tl.load(source + column.to(tl.int64) * stride + row, mask=inside, other=0.0)
    if SCALED:
        limit = tl.load(diagonal + column.to(tl.int64) * diagonal_stride, mask=column < columns, other=1.0)
        score = tl.div_rn(score, tl.broadcast_to(limit, score.shape))
        score = score * score
    if FORCED:
        gone = tl.load(forced + column.to(tl.int64) * forced_stride + row, mask=inside, other=0) != 0
        score = tl.where(gone, -1.0, score)
    return score, inside, column, row


@triton.jit
def _choose(work: tl.tensor, number: tl.tensor, BITS: tl.constexpr, PASSES: tl.constexpr) -> tl.tensor:
    """(key found so far, rank among the scores that agree with it, how many these are) after pass `number`."""
    bins = tl.arange(0, 1 << BITS)
    state = work + (PASSES << BITS) + 2 * number
    found, rank = tl.load(state), tl.load(state + 1)
    counts = tl.load(work + (number << BITS) + bins)
    chosen = tl.sum((tl.cumsum(counts, axis=0) < rank).to(tl.int32), axis=0)
    left = tl.sum(tl.where(bins == chosen, counts, 0), axis=0)
    rank -= tl.sum(tl.where(bins < chosen, counts, 0), axis=0)
    return found | (chosen << tl.maximum(KEY_BITS - (number + 1) * BITS, 0)), rank, left


@triton.jit(do_not_specialize=["number", "few"])
def _count(
    source: tl.tensor,
    diagonal: tl.tensor,
    forced: tl.tensor,
    work: tl.tensor,
    columns: tl.tensor,
    stride: tl.tensor,
    diagonal_stride: tl.tensor,
    forced_stride: tl.tensor,
    sizes: tl.tensor,
    odd: tl.tensor,
    number: tl.tensor,
    few: tl.tensor,
    FIRST: tl.constexpr,
    SCALED: tl.constexpr,
    FORCED: tl.constexpr,
    BITS: tl.constexpr,
    PASSES: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
) -> None:
    segment = tl.program_id(0)
    first, stop = _rows_of(segment, sizes)
    work += segment * ((PASSES + 1) << BITS)
    rank = _rank_of(segment, odd)
    found = rank * 0
    singly = False
    if not FIRST:
        found, rank, left = _choose(work, number - 1, BITS, PASSES)
        singly = left <= few
    if tl.program_id(1) == 0:
        state = work + (PASSES << BITS) + 2 * number
        tl.store(state, found)
        tl.store(state + 1, rank)
    counts = work + (number << BITS)
    known = KEY_BITS - number * BITS  # the lowest bit found; the last pass counts some of those again
    shift = tl.maximum(known - BITS, 0)
    tiles = tl.cdiv(columns, C) * tl.cdiv(stop - first, R)
    bins = tl.arange(0, 1 << BITS)
    if singly:
        for tile in range(tl.program_id(1), tiles, tl.num_programs(1)):
            score, inside, _, _ = _tile(
                tile, source, diagonal, forced, columns, stride, diagonal_stride, forced_stride, first, stop,
                SCALED, FORCED, C, R,
            )  # fmt: skip
            key = _key(score)
            agrees = inside & (((key ^ found) >> known) == 0)
            tl.atomic_add(counts + ((key >> shift) & ((1 << BITS) - 1)), 1, mask=agrees, sem="relaxed")
    else:
        total = tl.zeros([1 << BITS], tl.int32)
        for tile in range(tl.program_id(1), tiles, tl.num_programs(1)):
            score, inside, _, _ = _tile(
                tile, source, diagonal, forced, columns, stride, diagonal_stride, forced_stride, first, stop,
                SCALED, FORCED, C, R,
            )  # fmt: skip
            key = _key(score)
            agrees = inside & (((key ^ found) >> known) == 0)
            digit = tl.reshape((key >> shift) & ((1 << BITS) - 1), [C * R])
            total += tl.histogram(digit, 1 << BITS, mask=tl.reshape(agrees, [C * R]))
        tl.atomic_add(counts + bins, total, mask=total > 0, sem="relaxed")


@triton.jit
def _threshold(work: tl.tensor, out: tl.tensor, BITS: tl.constexpr, PASSES: tl.constexpr) -> None:
    segment = tl.program_id(0)
    found, _, _ = _choose(work + segment * ((PASSES + 1) << BITS), PASSES - 1, BITS, PASSES)
    tl.store(out + segment, _score(found))


@triton.jit
def _mark(
    source: tl.tensor,
    diagonal: tl.tensor,
    forced: tl.tensor,
    work: tl.tensor,
    columns: tl.tensor,
    stride: tl.tensor,
    diagonal_stride: tl.tensor,
    forced_stride: tl.tensor,
    sizes: tl.tensor,
    out: tl.tensor,
    out_stride: tl.tensor,
    SCALED: tl.constexpr,
    FORCED: tl.constexpr,
    BITS: tl.constexpr,
    PASSES: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
) -> None:
    segment = tl.program_id(0)
    first, stop = _rows_of(segment, sizes)
    found, _, _ = _choose(work + segment * ((PASSES + 1) << BITS), PASSES - 1, BITS, PASSES)
    threshold = _score(found)
    tiles = tl.cdiv(columns, C) * tl.cdiv(stop - first, R)
    for tile in range(tl.program_id(1), tiles, tl.num_programs(1)):
        score, inside, column, row = _tile(
            tile, source, diagonal, forced, columns, stride, diagonal_stride, forced_stride, first, stop,
            SCALED, FORCED, C, R,
        )  # fmt: skip
        tl.store(out + column.to(tl.int64) * out_stride + row, (score <= threshold).to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["count"])
def _mark_row(scores: tl.tensor, out: tl.tensor, cols: tl.tensor, count: tl.tensor, N: tl.constexpr) -> None:
    place = tl.arange(0, N)
    inside = place < cols
    start = tl.program_id(0).to(tl.int64) * cols
    key = tl.where(inside, _key(tl.load(scores + start + place, mask=inside, other=0.0)), OUTSIDE)
    found = count * 0
    bit = found + HIGHEST
    for _ in range(KEY_BITS):  # the largest key with fewer than `count` below it, from its highest bit down
        found += tl.where(tl.sum((key < found + bit).to(tl.int32), axis=0) < count, bit, 0)
        bit = bit >> 1
    below = key < found
    equal = (key == found).to(tl.int32)
    missing = count - tl.sum(below.to(tl.int32), axis=0)
    marked = (below | ((equal != 0) & (tl.cumsum(equal, axis=0) <= missing))) & (found < NAN)
    tl.store(out + start + place, marked.to(tl.uint8), mask=inside)
