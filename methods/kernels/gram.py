"""XᵀX of 16-bit inputs, added to a float32 sum by a Triton kernel that computes and touches only the upper triangle.

A program holds one tile of the upper triangle on the chip while all tokens pass, so the sum is read and written once a
batch. Tiles rarely fill a whole number of turns of the multiprocessors: those of the last turn are cut along the tokens
into parts of equal length, and a second kernel adds the parts in their order, so that a result never depends on timing.

The hard case is the bias of matrix units, which round sums down: what they have summed over a `chunk` of tokens goes
into a second sum that rounds to nearest, and they start again from zero. A tile on the diagonal is computed whole, and
tiles below it stay as they are.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

ALIGNED = 16  # bytes: what the copy engine asks of the address of every row
MOST_PARTS = 16  # of a tile: more save less than a sixteenth of a tile's time
SHORTEST_PART = 1024  # tokens: the sum of a shorter part is as much work as the part
PART_ROWS = 16  # of a tile, in a program that adds parts


@dataclass(frozen=True)
class Launch:
    """A tile of `rows` x `columns` of the sum and `depth` tokens of one step (powers of two), and how they are run.

    group: rows of tiles that are visited together, because neighbours read the same inputs from the cache.
    residents: programs that share a multiprocessor.
    """

    rows: int = 128
    columns: int = 128
    depth: int = 64
    group: int = 8
    warps: int = 8
    stages: int = 4
    residents: int = 1


LAUNCH = Launch()  # measured: others that spill nothing are as fast or slower from 256 to 11,008 columns
CHUNK = 1024  # tokens: 1.9e-6 from float64, relative; with 2,048 it is 5e-6, and as fast
FEWEST_COLUMNS = 128
CAPABILITY = 9  # major number of the devices on which it was measured


def suits(inputs: torch.Tensor) -> bool:
    """Whether `add_gram` takes `inputs` [tokens, cols] and is likely to be faster than torch."""
    if inputs.dtype not in (torch.bfloat16, torch.float16) or inputs.stride(1) != 1:
        return False
    distance = inputs.stride(0) * inputs.element_size()
    if inputs.data_ptr() % ALIGNED or distance % ALIGNED or inputs.stride(0) < inputs.shape[1]:
        return False
    if not inputs.is_cuda:
        return True
    return inputs.shape[1] >= FEWEST_COLUMNS and _device(inputs.device)[0] == CAPABILITY


def add_gram(total: torch.Tensor, inputs: torch.Tensor, chunk: int = CHUNK, launch: Launch | None = None) -> None:
    """Add the upper triangle of `inputs`ᵀ `inputs` to `total` [cols, cols], float32 and contiguous, in place.

    inputs [tokens, cols] are 16-bit numbers as `suits` describes them, at least one token. chunk: tokens of which the
    matrix units take one sum, a multiple of the depth of a step. Some entries next to the diagonal, below it, change.
    """
    tokens, cols = inputs.shape
    launch = launch or LAUNCH
    tiles = tiles_of(cols, launch.rows, launch.columns, launch.group, inputs.device)
    slots = _device(inputs.device)[1] * launch.residents
    whole, parts = split_of(len(tiles), slots, tokens // SHORTEST_PART)
    length = triton.cdiv(triton.cdiv(tokens, parts), launch.depth) * launch.depth
    parts = triton.cdiv(tokens, length)
    rest = len(tiles) - whole
    sums = torch.empty(parts * rest * launch.rows * launch.columns, dtype=torch.float32, device=total.device)
    _gram[(whole + rest * parts,)](
        TensorDescriptor(inputs, [tokens, cols], [inputs.stride(0), 1], [launch.depth, launch.rows]),
        TensorDescriptor(inputs, [tokens, cols], [inputs.stride(0), 1], [launch.depth, launch.columns]),
        total, sums, tiles, tokens, cols, whole, rest, length, max(1, chunk // launch.depth),
        M=launch.rows, N=launch.columns, K=launch.depth,
        num_warps=launch.warps, num_stages=launch.stages,
    )  # fmt: skip
    if rest:
        _add_parts[(rest, launch.rows // PART_ROWS)](
            total, sums, tiles, cols, whole, rest, parts, R=PART_ROWS, M=launch.rows, N=launch.columns, num_warps=8
        )


def split_of(tiles: int, slots: int, most: int) -> tuple[int, int]:
    """(tiles computed whole, parts of each of the others) so that `slots` programs at a time idle little at the end.

    most: parts of a tile at most, beside `MOST_PARTS`. Without parts all tiles are whole.
    """
    rest = tiles % slots
    best, time = 1, float(rest > 0)
    for parts in range(2, min(most, MOST_PARTS) + 1):
        turns = triton.cdiv(rest * parts, slots) / parts
        if turns < 0.98 * time:  # more parts are more to add
            best, time = parts, turns
    return (tiles, 1) if best == 1 else (tiles - rest, best)


@functools.cache
def tiles_of(cols: int, rows: int, columns: int, group: int, device: torch.device) -> torch.Tensor:
    """First row and column of every tile that reaches the upper triangle, int32 [tiles, 2], in the order of visits."""
    found = [
        (i, j)
        for top in range(0, cols, group * rows)
        for j in range(top // columns * columns, cols, columns)
        for i in range(top, min(top + group * rows, cols), rows)
        if i < j + columns
    ]
    tiles = torch.tensor(found, dtype=torch.int32, pin_memory=device.type == "cuda")
    return tiles.to(device, non_blocking=True)


@functools.cache
def _device(device: torch.device) -> tuple[int, int]:
    """(major number of the compute capability, multiprocessors)."""
    if device.type != "cuda":
        return CAPABILITY, 4
    properties = torch.cuda.get_device_properties(device)
    return properties.major, properties.multi_processor_count


@triton.jit
def _add(place: tl.tensor, value: tl.tensor, i: tl.tensor, j: tl.tensor, cols: tl.tensor) -> None:
    """Add a tile to the sum [cols, cols] at row i and column j."""
    row = i + tl.arange(0, value.shape[0])
    column = j + tl.arange(0, value.shape[1])
    inside = (row < cols)[:, None] & (column < cols)[None, :]
    place += row.to(tl.int64)[:, None] * cols + column[None, :]
    tl.store(place, tl.load(place, mask=inside, other=0.0) + value, mask=inside)


@triton.jit(do_not_specialize=["tokens", "whole", "rest", "length", "steps"])
def _gram(
    left: tl.tensor,
    right: tl.tensor,
    total: tl.tensor,
    sums: tl.tensor,
    tiles: tl.tensor,
    tokens: tl.tensor,
    cols: tl.tensor,
    whole: tl.tensor,
    rest: tl.tensor,
    length: tl.tensor,
    steps: tl.tensor,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
) -> None:
    place = tl.program_id(0)
    tile, token, stop = place, 0, tokens
    if place >= whole:  # all tiles of one part, then those of the next, so that neighbours read the same tokens
        tile = whole + (place - whole) % rest
        token = (place - whole) // rest * length
        stop = tl.minimum(token + length, tokens)
    i, j = tl.multiple_of(tl.load(tiles + 2 * tile), M), tl.multiple_of(tl.load(tiles + 2 * tile + 1), N)
    held = tl.zeros([M, N], dtype=tl.float32)
    chunk = tl.zeros([M, N], dtype=tl.float32)
    ahead = steps
    for start in range(token, stop, K):
        chunk = tl.dot(left.load([start, i]).T, right.load([start, j]), chunk)
        ahead -= 1
        if ahead == 0:
            held += chunk
            chunk *= 0.0  # a constant would be chosen in every step, and the matrix units waited for
            ahead = steps
    held += chunk
    if place < whole:
        _add(total, held, i, j, cols)
    else:
        inner = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
        tl.store(sums + (place - whole).to(tl.int64) * (M * N) + inner, held)


@triton.jit(do_not_specialize=["whole", "rest", "parts"])
def _add_parts(
    total: tl.tensor,
    sums: tl.tensor,
    tiles: tl.tensor,
    cols: tl.tensor,
    whole: tl.tensor,
    rest: tl.tensor,
    parts: tl.tensor,
    R: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
) -> None:
    tile, first = tl.program_id(0), tl.program_id(1) * R
    inner = (first + tl.arange(0, R))[:, None] * N + tl.arange(0, N)[None, :]
    held = tl.zeros([R, N], dtype=tl.float32)
    for part in range(parts):
        held += tl.load(sums + (part * rest + tile).to(tl.int64) * (M * N) + inner)
    place = tiles + 2 * (whole + tile)
    i, j = tl.multiple_of(tl.load(place), M), tl.multiple_of(tl.load(place + 1), N)
    _add(total, held, i + first, j, cols)
