"""Attention within packed tries, and what scoring reads from logits, as Triton kernels for CUDA devices.

A row of packed tries is nearly empty of pairs that see each other: tries of some two hundred positions lie in rows of
thousands. The attention kernel walks, for each tile of queries, over the keys from the first trie that reaches into the
tile to the tile itself, and needs four integers a position for everything else. The summary of logits reads each logit
once, as it came from the matrix product. Both compute in float32; attention weights are rounded to the model's dtype
before they meet the values, as in every fused attention.

The hard cases: a query whose first tile of keys belongs to another trie has seen nothing yet (its largest score is
-inf), and equal logits, of which argmax must give the first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

CompilerError = triton.TritonError  # what does not fit the chip, or cannot be compiled
LOG2_E = 1.4426950408889634
VOCABULARY_TILE = 8192


class Tile(NamedTuple):
    """Queries and keys of one step, and how a program is run."""

    queries: int
    keys: int
    warps: int
    stages: int


def tile_for(size: int, dtype: torch.dtype) -> Tile:
    """By head size, measured on an H200; float32 products have no fast path, and their tiles must fit the chip."""
    if dtype == torch.float32:
        return Tile(32, 32, 4, 1)
    return Tile(64, 32, 4, 3 if size <= 128 else 2)


def tree_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rule: torch.Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """Attention output [batch, length, heads, size] of `query` [batch, heads, length, size].

    key, value: [batch, key heads, length, size]; the number of heads is a multiple of the key heads.
    rule: int32 [batch, 4, length], the rows ends, depths, floors, starts. Query q sees key k when `k <= q < ends[k]`
    and `depths[k] > floors[q]`; `starts[q]` is no later than the first key that it sees. Every query sees itself.
    """
    batch, heads, length, size = query.shape
    padded = max(16, triton.next_power_of_2(size))
    tile = tile or tile_for(padded, query.dtype)
    out = torch.empty(batch, length, heads, size, dtype=query.dtype, device=query.device)
    value = value if value.stride(-1) == 1 else value.contiguous()
    query, key = (part if part.stride(-1) == 1 else part.contiguous() for part in (query, key))
    _tree_attention[(triton.cdiv(length, tile.queries), heads, batch)](
        query, key, value, rule, out, length, size, heads // key.shape[1],
        scale * LOG2_E if softcap is None else scale / softcap, (softcap or 0.0) * LOG2_E,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *rule.stride()[:2], *out.stride()[:3],
        CAPPED=softcap is not None, M=tile.queries, N=tile.keys, D=padded,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32", num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


def summarize(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-sum-exp in float32, argmax in int64) of each row of `logits` [n, vocabulary]."""
    rows, vocabulary = logits.shape
    norm = torch.empty(rows, dtype=torch.float32, device=logits.device)
    best = torch.empty(rows, dtype=torch.int64, device=logits.device)
    tile = min(VOCABULARY_TILE, triton.next_power_of_2(vocabulary))
    _summarize[(rows,)](logits, norm, best, vocabulary, *logits.stride(), N=tile, num_warps=8)
    return norm, best


@triton.jit(do_not_specialize=["length", "rule_batch", "rule_kind"])  # compiled once, not by what divides a length
def _tree_attention(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    rule: tl.tensor,
    out: tl.tensor,
    length: tl.tensor,
    size: tl.tensor,
    group: tl.tensor,
    scale: tl.tensor,
    cap: tl.tensor,
    query_batch: tl.tensor,
    query_head: tl.tensor,
    query_place: tl.tensor,
    key_batch: tl.tensor,
    key_head: tl.tensor,
    key_place: tl.tensor,
    value_batch: tl.tensor,
    value_head: tl.tensor,
    value_place: tl.tensor,
    rule_batch: tl.tensor,
    rule_kind: tl.tensor,
    out_batch: tl.tensor,
    out_place: tl.tensor,
    out_head: tl.tensor,
    CAPPED: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    query += batch * query_batch + head * query_head
    key += batch * key_batch + head // group * key_head
    value += batch * value_batch + head // group * value_head
    rule += batch * rule_batch
    out += batch * out_batch + head * out_head
    dtype = out.dtype.element_ty

    q = tl.program_id(0) * M + tl.arange(0, M)
    q_place = q.to(tl.int64)[:, None]
    col = tl.arange(0, D)
    inside = (q < length)[:, None] & (col < size)[None, :]
    queries = tl.load(query + q_place * query_place + col[None, :], mask=inside, other=0.0)
    floor = tl.load(rule + 2 * rule_kind + q, mask=q < length, other=0)
    start = tl.min(tl.load(rule + 3 * rule_kind + q, mask=q < length, other=length), axis=0)
    top = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    result = tl.zeros((M, D), tl.float32)
    for first in range(start // N * N, tl.minimum(tl.program_id(0) * M + M, length), N):
        k = first + tl.arange(0, N)
        k_place = k.to(tl.int64)[:, None]
        there = (k < length)[:, None] & (col < size)[None, :]
        end = tl.load(rule + k, mask=k < length, other=0)
        depth = tl.load(rule + rule_kind + k, mask=k < length, other=0)
        keys = tl.load(key + k_place * key_place + col[None, :], mask=there, other=0.0)
        score = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
        if CAPPED:  # cap * tanh(score), in powers of two like the rest
            score = cap * (1.0 - 2.0 / (1.0 + tl.exp(2.0 * score)))
        seen = (k[None, :] <= q[:, None]) & (q[:, None] < end[None, :]) & (depth[None, :] > floor[:, None])
        score = tl.where(seen, score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, axis=1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        share = tl.exp2(score - base[:, None])
        fade = tl.exp2(top - base)
        total = total * fade + tl.sum(share, axis=1)
        values = tl.load(value + k_place * value_place + col[None, :], mask=there, other=0.0)
        result = tl.dot(share.to(dtype), values, result * fade[:, None], input_precision=PRECISION)
        top = higher
    result = result / total[:, None]
    tl.store(out + q_place * out_place + col[None, :], result.to(dtype), mask=inside)


@triton.jit
def _summarize(
    logits: tl.tensor,
    norm: tl.tensor,
    best: tl.tensor,
    vocabulary: tl.tensor,
    row_stride: tl.tensor,
    stride: tl.tensor,
    N: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    col = tl.arange(0, N)
    largest = tl.full((N,), float("-inf"), tl.float32)  # in each lane, and where it was met first
    place = tl.zeros((N,), tl.int32)
    total = tl.zeros((N,), tl.float32)
    for first in range(0, vocabulary, N):
        inside = first + col < vocabulary
        value = tl.load(logits + (first + col) * stride, mask=inside, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(largest, value)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(largest - base) + tl.exp(value - base)
        place = tl.where(value > largest, first + col, place)
        largest = higher
    top = tl.max(largest, axis=0)
    total = tl.sum(total * tl.exp(largest - top), axis=0)
    tl.store(norm + row, tl.log(total) + top)
    tl.store(best + row, tl.min(tl.where(largest == top, place, vocabulary), axis=0).to(tl.int64))
