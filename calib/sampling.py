"""Which windows make calibration set number k: seeded, disjoint, and the same however many sets are asked for.

A pool is all documents of a source as token ids. A policy lays some of them out and cuts windows of equal length:

- `windows`: all documents, packed in a seeded order into one stream, cut into windows, the windows permuted; set k is
  the k-th run of them. Sets share no token. Uses text evenly; a window may begin in the middle of a document.
- `packed`: documents in a seeded order, windows one after another; each set begins with a fresh document. Sets share
  no document.
- `long_documents`: one random window out of each document that is long enough. Sets share no document. This conditions
  on length: short documents never take part. It is the convention of the C4 loaders of GPTQ, SparseGPT and Wanda,
  without their replacement.
- `sequential`: documents in their own order, windows from the start, the tail dropped. No chance; for evaluation.

The hard part is stability. Set k must not depend on the number of sets, so each policy fixes one order of the whole
pool by the seed and set k takes its place in it. And it must be equal on every machine: the draws use the raw 64-bit
output of PCG64, which NumPy promises never to change, and not the methods of `Generator`, which it does not promise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


class TooLittleText(Exception):
    """The pool cannot fill the set. `available` and `needed` count windows; `sets` how many sets there would be."""

    def __init__(self, available: int, needed: int, sets: int) -> None:
        super().__init__(f"{available} windows, {needed} needed")
        self.available, self.needed, self.sets = available, needed, sets


@dataclass(frozen=True)
class Pool:
    """All documents of a source as token ids, one after another; none is empty."""

    ids: tuple[str, ...]
    tokens: np.ndarray  # (all tokens,), int32
    offsets: np.ndarray  # (documents + 1,), int64: document i is tokens[offsets[i]:offsets[i + 1]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Draw:
    """What to draw. `length` is in tokens of text (without an added BOS); nsamples None means every window."""

    sampling: str
    set: int
    nsamples: int | None
    length: int
    seed: int
    separator: np.ndarray  # (k,), int32: stands between two documents of a stream


@dataclass(frozen=True)
class Window:
    """Token ids, and the pieces of documents they come from (separators belong to no piece)."""

    tokens: np.ndarray  # (length,), int32
    documents: tuple[int, ...]  # index in the pool, of each piece
    starts: tuple[int, ...]  # first token of each piece within its document
    lengths: tuple[int, ...]  # tokens of each piece


def draw_windows(pool: Pool, draw: Draw) -> list[Window]:
    """The windows of one set. Raises TooLittleText when the pool cannot fill it."""
    return POLICIES[draw.sampling](pool, draw)


@dataclass(frozen=True)
class _Stream:
    """Documents of a pool laid out in some order with separators between them."""

    pool: Pool
    order: np.ndarray  # (documents,), index in the pool
    starts: np.ndarray  # (documents,), where each begins in the stream
    ends: np.ndarray  # (documents,), where each ends, its separator excluded
    separator: np.ndarray

    @property
    def length(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def cut(self, begin: int, length: int) -> Window:
        """The window of `length` tokens that begins at `begin`."""
        end = begin + length
        tokens = np.empty(length, dtype=np.int32)
        pieces: list[tuple[int, int, int]] = []
        place = int(np.searchsorted(self.starts, begin, side="right")) - 1
        while place < len(self.order) and self.starts[place] < end:
            start, stop = int(self.starts[place]), int(self.ends[place])
            low, high = max(begin, start), min(end, stop)
            if high > low:
                document = int(self.order[place])
                first = int(self.pool.offsets[document]) + low - start
                tokens[low - begin : high - begin] = self.pool.tokens[first : first + high - low]
                pieces.append((document, low - start, high - low))
            low, high = max(begin, stop), min(end, stop + len(self.separator))
            if high > low:
                tokens[low - begin : high - begin] = self.separator[low - stop : high - stop]
            place += 1
        documents, firsts, lengths = zip(*pieces, strict=True) if pieces else ((), (), ())
        return Window(tokens, documents, firsts, lengths)


def _lay_out(pool: Pool, order: np.ndarray, separator: np.ndarray) -> _Stream:
    lengths = pool.lengths[order]
    ends = np.cumsum(lengths) + np.arange(len(order)) * len(separator)
    return _Stream(pool, order, ends - lengths, ends, separator)


def _windows(pool: Pool, draw: Draw) -> list[Window]:
    random = raw_numbers(draw.seed)
    stream = _lay_out(pool, _permutation(random, len(pool.ids)), draw.separator)
    order = _permutation(random, stream.length // draw.length)
    return [stream.cut(int(number) * draw.length, draw.length) for number in _run(order, draw)]


def _sequential(pool: Pool, draw: Draw) -> list[Window]:
    stream = _lay_out(pool, np.arange(len(pool.ids)), draw.separator)
    order = np.arange(stream.length // draw.length)
    return [stream.cut(int(number) * draw.length, draw.length) for number in _run(order, draw)]


def _long_documents(pool: Pool, draw: Draw) -> list[Window]:
    random = raw_numbers(draw.seed)
    order = _permutation(random, len(pool.ids))
    where = random(len(pool.ids))  # one number for every document, long enough or not: lengths do not shift the draws
    order = order[pool.lengths[order] >= draw.length]
    windows = []
    for document in _run(order, draw):
        start = int(where[document]) % int(pool.lengths[document] - draw.length + 1)
        first = int(pool.offsets[document]) + start
        tokens = pool.tokens[first : first + draw.length]
        windows.append(Window(tokens, (int(document),), (start,), (draw.length,)))
    return windows


def _packed(pool: Pool, draw: Draw) -> list[Window]:
    assert draw.nsamples is not None
    stream = _lay_out(pool, _permutation(raw_numbers(draw.seed), len(pool.ids)), draw.separator)
    need = draw.nsamples * draw.length
    first = 0
    for number in range(draw.set + 1):
        begin = int(stream.starts[first]) if first < len(stream.starts) else stream.length
        last = int(np.searchsorted(stream.ends, begin + need, side="left"))
        if last >= len(stream.ends):
            available = number * draw.nsamples + (stream.length - begin) // draw.length
            raise TooLittleText(available, (draw.set + 1) * draw.nsamples, number)
        if number < draw.set:
            first = last + 1
    return [stream.cut(begin + window * draw.length, draw.length) for window in range(draw.nsamples)]


POLICIES: dict[str, Callable[[Pool, Draw], list[Window]]] = {
    "windows": _windows,
    "packed": _packed,
    "long_documents": _long_documents,
    "sequential": _sequential,
}


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """`total` windows divided by `shares` (largest remainders, ties to the first), each at least its share's floor."""
    exact = [total * share / sum(shares) for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def shuffled(count: int, seed: int, set_number: int) -> np.ndarray:
    """A seeded order of the windows of a mixture's set, so that its parts do not stand in blocks."""
    return _permutation(raw_numbers(seed, set_number + 1), count)


def _run(order: np.ndarray, draw: Draw) -> np.ndarray:
    """The set's run of `order`; all of it when nsamples is None."""
    if draw.nsamples is None:
        if not len(order):
            raise TooLittleText(0, 1, 0)
        return order
    needed = (draw.set + 1) * draw.nsamples
    if needed > len(order):
        raise TooLittleText(len(order), needed, len(order) // draw.nsamples)
    return order[draw.set * draw.nsamples : needed]


def raw_numbers(*entropy: int) -> Callable[[int], np.ndarray]:
    """A source of raw 64-bit numbers that depends on `entropy` alone."""
    generator = np.random.PCG64(np.random.SeedSequence(entropy))
    return lambda count: np.asarray(generator.random_raw(count), dtype=np.uint64)


def _permutation(random: Callable[[int], np.ndarray], count: int) -> np.ndarray:
    return np.argsort(random(count), kind="stable")
