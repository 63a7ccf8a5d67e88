"""Which windows make calibration set number k: seeded, disjoint, nested, and the same however many sets are asked for.

A pool is all documents of a source as token ids. A policy lays some of them out and cuts windows of equal length:

- `windows`: all documents, packed in a seeded order into one stream, cut into windows, the windows permuted; set k is
  the k-th run of them. Sets share no token. Uses text evenly; a window may begin in the middle of a document.
- `packed`: documents in a seeded order, windows one after another; each set begins with a fresh document. Sets share
  no document.
- `document_start`: each window begins with a fresh document, in a seeded order; where the document is shorter the next
  ones follow, and what is left of the last one is dropped. Sets share no document.
- `long_documents`: one random window out of each document that is long enough. Sets share no document. This conditions
  on length: short documents never take part. It is the convention of the C4 loaders of GPTQ, SparseGPT and Wanda,
  without their replacement.
- `sequential`: documents in their own order, windows from the start, the tail dropped. No chance; for evaluation.

The hard part is stability. Set k must not depend on the number of sets, so each policy fixes one order of the whole
pool by the seed and set k takes its place in it. Set k must not depend on its size either: a run has room for `reserve`
windows, of which a smaller set takes the first ones, so it lies inside every larger one and shares nothing with other
sets of any size. And it must be equal on every machine: the draws use the raw 64-bit output of PCG64, which NumPy
promises never to change, and not the methods of `Generator`, which it does not promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np


class TooLittleText(Exception):
    """The pool cannot fill the set. `available` and `needed` count windows; `sets` how many sets there would be."""

    def __init__(self, available: int, needed: int, sets: int) -> None:
        super().__init__(f"{available} windows, {needed} needed")
        self.available, self.needed, self.sets = available, needed, sets


Piece = tuple[int, int, int, int]  # document, first token in it, tokens, first token in the window
Marks = Callable[[int], "np.ndarray | None"]  # document -> (its tokens,), bool: which an assistant writes, if known


@dataclass(frozen=True)
class Pool:
    """All documents of a source as token ids, one after another; none is empty."""

    ids: tuple[str, ...]
    tokens: np.ndarray  # (all tokens,), int32
    offsets: np.ndarray  # (documents + 1,), int64: document i is tokens[offsets[i]:offsets[i + 1]]
    excluded: int = 0  # documents that were left out, since they share words with the evaluation
    marks: Marks | None = None  # None where nothing is known of replies

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Draw:
    """What to draw. `length` is in tokens of text (without an added BOS); nsamples None means every window.

    `reserve` is the number of windows set apart for each set, at least nsamples; None means nsamples.
    """

    sampling: str
    set: int
    nsamples: int | None
    length: int
    seed: int
    separator: np.ndarray  # (k,), int32: stands between two documents of a stream
    reserve: int | None = None

    @property
    def needed(self) -> int:
        """Windows that a pool must have for this set: the room of those before it, and its own."""
        own = self.nsamples or 1
        return self.set * max(self.reserve or 0, own) + own

    def sets_in(self, windows: int) -> int:
        """How many sets of this size so many windows make."""
        own = self.nsamples or 1
        return (windows - own) // max(self.reserve or 0, own) + 1 if windows >= own else 0


@dataclass(frozen=True)
class Window:
    """Token ids, and the pieces of documents they come from (separators belong to no piece)."""

    tokens: np.ndarray  # (length,), int32
    documents: tuple[int, ...]  # index in the pool, of each piece
    starts: tuple[int, ...]  # first token of each piece within its document
    lengths: tuple[int, ...]  # tokens of each piece
    places: tuple[int, ...]  # first token of each piece within the window

    @property
    def pieces(self) -> Iterator[Piece]:
        return zip(self.documents, self.starts, self.lengths, self.places, strict=True)


def draw_windows(pool: Pool, draw: Draw) -> list[Window]:
    """The windows of one set. Raises TooLittleText when the pool cannot fill it."""
    return POLICIES[draw.sampling](pool, draw)


def with_lead(pool: Pool, token: int) -> Pool:
    """The pool with one more token, no text, at the beginning of every document."""
    tokens = np.insert(pool.tokens, pool.offsets[:-1], np.int32(token)).astype(np.int32)
    offsets = pool.offsets + np.arange(len(pool.offsets))
    return replace(
        pool, tokens=tokens, offsets=offsets, marks=_changed(pool.marks, lambda own: np.insert(own, 0, False))
    )


def without_end(pool: Pool, token: int) -> Pool:
    """The pool without this token at the end of documents that hold more than it: a separator stands there already."""
    ends = pool.offsets[1:] - 1
    cut = (pool.tokens[ends] == token) & (pool.lengths > 1)
    offsets = np.concatenate([[0], np.cumsum(pool.lengths - cut)]).astype(np.int64)
    return replace(pool, tokens=np.delete(pool.tokens, ends[cut]), offsets=offsets)


def without_lead(window: Window) -> Window:
    """The same tokens; the pieces tell of the documents' own tokens, without the one that leads each document."""
    pieces = [
        (document, max(start - 1, 0), length - (start == 0), place + (start == 0))
        for document, start, length, place in window.pieces
        if length > 1 or start
    ]
    return _window(window.tokens, pieces)


def responses_in(window: Window, pool: Pool) -> np.ndarray | None:
    """Which tokens of a window an assistant writes, (length,), bool; None where a document in it does not tell."""
    if pool.marks is None:
        return None
    found = np.zeros(len(window.tokens), dtype=bool)
    for document, start, length, place in window.pieces:
        if (own := pool.marks(document)) is None:
            return None
        found[place : place + length] = own[start : start + length]
    return found


def _changed(marks: Marks | None, change: Callable[[np.ndarray], np.ndarray]) -> Marks | None:
    if marks is None:
        return None
    return lambda document: None if (own := marks(document)) is None else change(own)


def _window(tokens: np.ndarray, pieces: Sequence[Piece]) -> Window:
    documents, starts, lengths, places = zip(*pieces, strict=True) if pieces else ((), (), (), ())
    return Window(tokens, documents, starts, lengths, places)


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
        pieces: list[Piece] = []
        place = int(np.searchsorted(self.starts, begin, side="right")) - 1
        while place < len(self.order) and self.starts[place] < end:
            start, stop = int(self.starts[place]), int(self.ends[place])
            low, high = max(begin, start), min(end, stop)
            if high > low:
                document = int(self.order[place])
                first = int(self.pool.offsets[document]) + low - start
                tokens[low - begin : high - begin] = self.pool.tokens[first : first + high - low]
                pieces.append((document, low - start, high - low, low - begin))
            low, high = max(begin, stop), min(end, stop + len(self.separator))
            if high > low:
                tokens[low - begin : high - begin] = self.separator[low - stop : high - stop]
            place += 1
        return _window(tokens, pieces)


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
        windows.append(_window(tokens, [(int(document), start, draw.length, 0)]))
    return windows


def _document_start(pool: Pool, draw: Draw) -> list[Window]:
    stream = _lay_out(pool, _permutation(raw_numbers(draw.seed), len(pool.ids)), draw.separator)
    begins: list[int] = []
    first = 0  # the next fresh document
    while len(begins) < draw.needed and first < len(stream.starts):
        begin = int(stream.starts[first])
        last = int(np.searchsorted(stream.ends, begin + draw.length, side="left"))
        if last >= len(stream.ends):
            break
        begins.append(begin)
        first = last + 1
    return [stream.cut(int(begin), draw.length) for begin in _run(np.asarray(begins, dtype=np.int64), draw)]


def _packed(pool: Pool, draw: Draw) -> list[Window]:
    assert draw.nsamples is not None
    stream = _lay_out(pool, _permutation(raw_numbers(draw.seed), len(pool.ids)), draw.separator)
    reserve = max(draw.reserve or 0, draw.nsamples)
    first = 0
    for number in range(draw.set + 1):
        begin = int(stream.starts[first]) if first < len(stream.starts) else stream.length
        wanted = reserve if number < draw.set else draw.nsamples
        last = int(np.searchsorted(stream.ends, begin + wanted * draw.length, side="left"))
        if last >= len(stream.ends):
            left = (stream.length - begin) // draw.length
            sets = number + (number < draw.set and left >= draw.nsamples)
            raise TooLittleText(number * reserve + left, draw.needed, sets)
        if number < draw.set:
            first = last + 1
    return [stream.cut(begin + window * draw.length, draw.length) for window in range(draw.nsamples)]


POLICIES: dict[str, Callable[[Pool, Draw], list[Window]]] = {
    "windows": _windows,
    "packed": _packed,
    "document_start": _document_start,
    "long_documents": _long_documents,
    "sequential": _sequential,
}


def turns(total: int, shares: Sequence[float]) -> np.ndarray:
    """Which part of a mixture gives each of its windows; (total,), int64.

    At every point of the order a part has given its share of the windows so far, less than one off, so the order of a
    small set is the beginning of the order of a large one. Tijdeman's solution of the chairman assignment problem
    (Discrete Mathematics 32, 1980): of the parts that lag enough, the one whose next turn is due first.
    """
    weights = np.asarray(shares, dtype=np.float64) / np.sum(shares)
    slack = 1 - 1 / (2 * len(weights) - 2) if len(weights) > 1 else 0.0
    given = np.zeros(len(weights))
    order = np.empty(total, dtype=np.int64)
    for turn in range(total):
        lag = weights * (turn + 1) - given
        due = np.where(lag >= 1 - slack - 1e-9, (slack - weights * turn + given) / weights, np.inf)
        order[turn] = chosen = int(np.argmin(np.round(due, 9)))
        given[chosen] += 1
    return order


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """`total` windows divided by `shares`: how often each part has its turn; never fewer for a larger total."""
    return np.bincount(turns(total, shares), minlength=len(shares)).tolist()


def _run(order: np.ndarray, draw: Draw) -> np.ndarray:
    """The set's run of `order`; all of it when nsamples is None."""
    if draw.nsamples is None:
        if not len(order):
            raise TooLittleText(0, 1, 0)
        return order
    if draw.needed > len(order):
        raise TooLittleText(len(order), draw.needed, draw.sets_in(len(order)))
    return order[draw.needed - draw.nsamples : draw.needed]


def raw_numbers(*entropy: int) -> Callable[[int], np.ndarray]:
    """A source of raw 64-bit numbers that depends on `entropy` alone."""
    generator = np.random.PCG64(np.random.SeedSequence(entropy))
    return lambda count: np.asarray(generator.random_raw(count), dtype=np.uint64)


def _permutation(random: Callable[[int], np.ndarray], count: int) -> np.ndarray:
    return np.argsort(random(count), kind="stable")
