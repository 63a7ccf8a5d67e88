"""Prefix sharing and packing: from sequences to rows of a batch in which every shared prefix is computed once.

The inputs of all requests form a forest of token tries: two requests share the positions of their common prefix, so a
context is computed once however many continuations branch from it. A trie is laid out in depth-first order, which
makes its attention mask one comparison of two integers: position q attends to position k when `k <= q < end[k]`, where
end[k] is one past the last descendant of k. The same rule keeps tries that lie in one row apart. A token's rotary or
learned position is its depth in its trie. Tries are packed into rows, the largest first, each into the fullest row
that takes it. Requests whose lengths may not share a model call (`methods/walk/lengths.py`) share no trie and no row.

The hard case is where to cut the forest: every request begins with the same BOS token, so uncut it would be one trie
larger than any row, and each cut computes the prefix at the cut once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sweep.evaluation.questions.requests import Requests


@dataclass(frozen=True)
class Row:
    """One row: the tokens of several tries one after another."""

    tokens: np.ndarray  # (length,), int32
    positions: np.ndarray  # (length,), int32: depth in the trie
    ends: np.ndarray  # (length,), int32: one past the last descendant, counted in this row


@dataclass(frozen=True)
class Packing:
    """All rows, and where each request finds its predictions."""

    rows: list[Row]
    class_of: np.ndarray  # (rows,), int64: the class of the requests in each row
    row_of: np.ndarray  # (p,), int32: row of each prediction
    place_of: np.ndarray  # (p,), int32: the position in its row whose next-token distribution is wanted
    target: np.ndarray  # (p,), int32: the token that is predicted
    request_of: np.ndarray  # (p,), int64: the request that the prediction belongs to
    requested_tokens: int  # input tokens of all requests before sharing

    @property
    def tokens(self) -> int:
        return sum(len(row.tokens) for row in self.rows)


@dataclass
class _Trie:
    tokens: np.ndarray
    positions: np.ndarray
    ends: np.ndarray
    predictions: list[tuple[int, np.ndarray]]  # (request, places of its predictions)


def pack(
    requests: Requests, row_length: int, trie_length: int | None = None, classes: np.ndarray | None = None
) -> Packing:
    """Rows of about `row_length` positions, tries of at most `trie_length` (`row_length` when none is given).

    A longer trie gets a row of its own, and so does a sequence longer than both. `classes`: (n,), a number for every
    request; those of different classes share nothing.
    """
    if classes is None:
        classes = np.zeros(len(requests), np.int64)
    tries: list[_Trie] = []
    bins: list[list[int]] = []
    class_of: list[int] = []
    for number in np.unique(classes):
        first = len(tries)
        alike = np.flatnonzero(classes == number)
        tries += _tries(requests, alike, row_length, max(row_length, trie_length or 0))
        found = best_fit_decreasing([len(trie.tokens) for trie in tries[first:]], row_length)
        bins += [[first + member for member in row] for row in found]
        class_of += [int(number)] * len(found)
    rows, row_of, place_of, target, request_of = [], [], [], [], []
    for number, members in enumerate(bins):
        offset, parts = 0, []
        for member in members:
            trie = tries[member]
            parts.append((trie.tokens, trie.positions, trie.ends + offset))
            for request, places in trie.predictions:
                row_of.append(np.full(len(places), number, np.int32))
                place_of.append((places + offset).astype(np.int32))
                target.append(requests.sequence(request)[-len(places) :])
                request_of.append(np.full(len(places), request, np.int64))
            offset += len(trie.tokens)
        tokens, positions, ends = (np.concatenate(column).astype(np.int32) for column in zip(*parts, strict=True))
        rows.append(Row(tokens, positions, ends))
    lengths = np.diff(requests.offsets) - 1
    return Packing(
        rows=rows,
        class_of=np.asarray(class_of, np.int64),
        row_of=_joined(row_of, np.int32),
        place_of=_joined(place_of, np.int32),
        target=_joined(target, np.int32),
        request_of=_joined(request_of, np.int64),
        requested_tokens=int(lengths.sum()),
    )


def best_fit_decreasing(sizes: list[int], capacity: int) -> list[list[int]]:
    """Bins of item numbers. An item larger than `capacity` opens a bin that nothing else enters.

    Bins with the same room are interchangeable, so they are kept by room: each item costs at most `capacity` steps
    however many bins there are.
    """
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    for item in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        size = sizes[item]
        if size > capacity:
            bins.append([item])
            continue
        room = min((room for room, open_bins in by_room.items() if room >= size and open_bins), default=None)
        if room is None:
            bins.append([])
            chosen, room = len(bins) - 1, capacity
        else:
            chosen = by_room[room].pop()
            if not by_room[room]:
                del by_room[room]
        bins[chosen].append(item)
        by_room.setdefault(room - size, []).append(chosen)
    return bins


def _tries(requests: Requests, members: np.ndarray, row_length: int, longest: int) -> Iterator[_Trie]:
    """Walk the distinct inputs in lexicographic order; neighbours share the longest prefixes there are."""
    order, inputs = _sorted_inputs(requests, members)
    trie = _Growing(row_length, longest)
    previous = np.zeros(0, np.int32)
    for request in order:
        sequence = inputs[request]
        shared = _common_prefix(previous, sequence)
        if trie.size and trie.cut_before(shared, len(sequence)):
            yield trie.finish()
            trie, shared = _Growing(row_length, longest), 0
        trie.add(request, sequence, shared, int(requests.continuation[request]))
        previous = sequence
    if trie.size:
        yield trie.finish()


class _Growing:
    """A trie under construction, in depth-first order."""

    def __init__(self, row_length: int, longest: int) -> None:
        self.row_length = row_length
        self.longest = longest
        self.size = 0
        self.tokens: list[np.ndarray] = []
        self.positions: list[np.ndarray] = []
        self.ends = np.zeros(0, np.int64)
        self.path = np.zeros(0, np.int64)  # number of the open node at each depth
        self.predictions: list[tuple[int, np.ndarray]] = []

    def cut_before(self, shared: int, length: int) -> bool:
        """Whether the next input starts a new trie, which computes its `shared` first tokens again."""
        if shared < 2 or self.size + length - shared > self.longest:  # one shared token is the BOS
            return True
        # small tries pack better, so a cut that repeats little is worth it once the trie is large
        return self.size >= self.row_length // 8 and shared <= self.size // 16

    def add(self, request: int, sequence: np.ndarray, shared: int, continuation: int) -> None:
        new = len(sequence) - shared
        self.tokens.append(sequence[shared:])
        self.positions.append(np.arange(shared, len(sequence)))
        closed = self.path[shared:]
        self.ends = np.concatenate([self.ends, np.zeros(new, np.int64)])
        self.ends[closed] = self.size
        self.path = np.concatenate([self.path[:shared], np.arange(self.size, self.size + new)])
        self.predictions.append((request, self.path[len(sequence) - continuation :].copy()))
        self.size += new

    def finish(self) -> _Trie:
        self.ends[self.path] = self.size
        return _Trie(np.concatenate(self.tokens), np.concatenate(self.positions), self.ends, self.predictions)


def _sorted_inputs(requests: Requests, members: np.ndarray) -> tuple[list[int], dict[int, np.ndarray]]:
    """Numbers of the requests in lexicographic order of their inputs, and the inputs (all tokens but the last)."""
    inputs = {int(number): requests.sequence(number)[:-1] for number in members}
    # big-endian bytes sort like the numbers
    keys = {number: sequence.astype(">i4").tobytes() for number, sequence in inputs.items()}
    return sorted(inputs, key=lambda number: (keys[number], number)), inputs


def _common_prefix(left: np.ndarray, right: np.ndarray) -> int:
    length = min(len(left), len(right))
    different = np.flatnonzero(left[:length] != right[:length])
    return int(different[0]) if len(different) else length


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)
