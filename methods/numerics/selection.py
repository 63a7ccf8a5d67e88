"""Which weights to prune: exact counts, n:m groups, ties broken by index.

A share of weights is a count, so equal scores (common in fp16 weights) must not change it: among equal scores the
lower index goes first, on every device. n:m patterns keep n of every m consecutive inputs of a row. The hard case is
a whole matrix on a CUDA device, where torch searches a row with a single thread block and sorting moves every score
several times: there the kernels of `methods/kernels/selection.py` find the threshold, eight bits in one pass. Without
Triton it is found bit by bit, each a comparison and a count (`kth_smallest`).
"""

from __future__ import annotations

from collections.abc import Sequence

from methods.lazy import torch
from methods.numerics import backend
from methods.numerics.backend import SelectionKernels

ROWS_THAT_FILL_A_GPU = 128  # each is searched by a thread block of its own, and a large GPU runs about as many at once
SORTED_AT_MOST = 1 << 22  # scores; above, a sort moves more than 31 comparisons read (0.19 ms for 1.4 M on an H200)
COUNTED_BELOW = 1 << 30  # scores; the kernels count and number them with 32-bit integers
NAN_KEY = 0x7F800002  # one above the key of infinity


def smallest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Mask of the `count` smallest scores along the last axis; among equal scores the lower index goes first.

    Scores are float32, at least zero, or −1 for what must go. On a CUDA device the host waits for nothing.
    """
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if count >= scores.shape[-1]:
        return torch.ones_like(scores, dtype=torch.bool)
    rows = scores.numel() // scores.shape[-1]
    kernels = selection_kernels(scores)
    if kernels is not None and rows >= ROWS_THAT_FILL_A_GPU and scores.shape[-1] <= kernels.WIDEST_ROW:
        return kernels.smallest_of_rows(scores, count)
    if (kernels is not None or scores.is_cuda) and rows < ROWS_THAT_FILL_A_GPU:
        threshold = kth_smallest(scores, count)
    else:
        threshold = torch.kthvalue(scores, count, dim=-1, keepdim=True).values
    if not scores.is_cuda:  # ties are rare, and looking is cheap where nobody waits for a device
        mask = scores <= threshold
        if int(mask.sum()) == count * (mask.numel() // mask.shape[-1]):
            return mask
    below = scores < threshold
    equal = scores == threshold
    missing = count - below.sum(-1, keepdim=True)
    return below | (equal & (equal.cumsum(-1, dtype=torch.int32) <= missing))


def kth_smallest(scores: torch.Tensor, k: int) -> torch.Tensor:
    """The k-th smallest (from 1) of float32 scores [..., n] along the last axis, [..., 1], exactly.

    Scores are at least zero, or −1; NaN is the largest. The bits of such numbers, read as integers, are ordered as the
    numbers are, so the largest integer with fewer than k scores below it is the answer, and it is found from its
    highest bit down.
    """
    kernels = selection_kernels(scores)
    if kernels is not None:
        return kernels.kth_smallest(scores, k)
    keys = (scores.contiguous().view(torch.int32) & 0x7FFFFFFF).clamp_max(NAN_KEY - 1) + 1  # zero becomes 1
    keys = keys.masked_fill(scores < 0, 0)
    found = torch.zeros_like(keys[..., :1])
    for bit in reversed(range(31)):
        trial = found + (1 << bit)
        found = torch.where((keys < trial).sum(-1, keepdim=True) < k, trial, found)
    return torch.where(found > 0, (found - 1).clamp_min(0).view(torch.float32), -1.0)


def smallest_spread(scores: torch.Tensor, share: float) -> torch.Tensor:
    """Mask of round(numel · share) of `scores` [rows, cols]: the smallest of each row.

    Rows lose equally many, or one more where the next score of the row is among the smallest of these.
    """
    rows = scores.shape[0]
    each, over = divmod(round(scores.numel() * share), rows)
    fewer = smallest(scores, each)
    if not over:
        return fewer
    more = smallest(scores, each + 1)
    following = torch.where(more & ~fewer, scores, 0.0).sum(1)
    return torch.where(smallest(following, over)[:, None], more, fewer)


def at_most_threshold(scores: torch.Tensor, share: float) -> torch.Tensor:
    """Mask of the scores ≤ the element at sorted position int(numel·share): the reference rule, ties included."""
    if share <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    return _up_to(scores, threshold_rank(scores.numel(), share))


def block_mask(
    block: torch.Tensor,
    diagonal: torch.Tensor,
    segments: Sequence[int],
    ranks: Sequence[int],
    forced: torch.Tensor | None,
) -> torch.Tensor:
    """Mask [n, rows] of the weights of `block` with (w / U_jj)² up to the one at sorted position `rank` (from 1).

    `diagonal` [n] is U_jj; `segments` are the numbers of rows that compete, each with its own rank; `forced` [n, rows]
    entries come first, and all of them go.
    """
    kernels = selection_kernels(block)
    if kernels is not None:
        return kernels.block_mask(block, diagonal, segments, ranks, forced)
    scores = first_of_all((block / diagonal[:, None]).square_(), forced)
    parts = scores.split(list(segments), dim=1)
    mask = torch.cat([_up_to(part, rank) for part, rank in zip(parts, ranks, strict=True)], dim=1)
    return mask if forced is None else mask.logical_or_(forced)


def _up_to(scores: torch.Tensor, rank: int) -> torch.Tensor:
    """Mask of the scores up to the one at sorted position `rank`, from 1."""
    flat = scores.flatten()
    if selection_kernels(flat) is not None or (flat.is_cuda and flat.numel() > SORTED_AT_MOST):
        return scores <= kth_smallest(flat, rank)
    if flat.is_cuda:  # one thread block searches for a kth value of one row; a sort uses them all
        return scores <= torch.sort(flat).values[rank - 1]
    return scores <= torch.kthvalue(flat, rank).values


def threshold_rank(count: int, share: float) -> int:
    """Which of `count` scores, numbered from 1 by size, is the threshold of `at_most_threshold`."""
    return min(int(count * share) + 1, count)


def selection_kernels(scores: torch.Tensor) -> SelectionKernels | None:
    """The kernels that search `scores` where they are, None when torch does it."""
    return backend.selection_kernels(scores) if scores.numel() < COUNTED_BELOW else None


def first_of_all(scores: torch.Tensor, forced: torch.Tensor | None) -> torch.Tensor:
    """`scores`, which are at least zero, with −1 for what must go: of those that are `forced` all go, before others."""
    return scores if forced is None else scores.masked_fill(forced, -1.0)


def smallest_in_groups(scores: torch.Tensor, kept: int, group: int) -> torch.Tensor:
    """Mask of the group − kept smallest scores in each run of `group` along the last axis, lower index first."""
    grouped = scores.unflatten(-1, (-1, group)).movedim(-1, 0).contiguous()
    return smallest_of_first_axis(grouped, group - kept).movedim(0, -1).flatten(-2)


def smallest_of_first_axis(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Mask of the `count` smallest along the first, short axis; among equal scores the lower index goes first."""
    size = scores.shape[0]
    earlier = torch.ones(size, size, dtype=torch.bool, device=scores.device).tril(-1)
    earlier = earlier.view(size, size, *[1] * (scores.dim() - 1))
    mine, other = scores[:, None], scores[None]
    return torch.where(earlier, other <= mine, other < mine).sum(1) < count
