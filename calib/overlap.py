"""Contamination: which evaluation texts share an n-gram with a calibration set, and which documents to leave out.

Calibrating on what is evaluated flatters the result, and nothing in the name of a split tells it. So texts are judged
by content: n words in a row of normalised text (`calib/ngrams.py`), or n token ids, that stand in both. The n is stated
with every count. The hard case is size: the n-grams of the evaluation are held once, sorted, behind a bitmap that most
of the calibration text never gets past, so a whole study's sets are read in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.ngrams import TOKENS, WORDS, batches, token_ngrams, word_ngrams
from calib.source import Document

BITS = 27  # of the bitmap: 16 MiB

Hashing = Callable[[Sequence[Any], int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Index:
    """The n-grams of the evaluation texts. Texts of fewer than n words (or tokens) have none: `short` counts them."""

    n: int
    hashing: Hashing
    texts: int
    short: int
    hashes: np.ndarray  # (k,), uint64, sorted, each once
    owners: np.ndarray  # (m,), int64: the text of each n-gram
    places: np.ndarray  # (m,), int64: where its hash stands in `hashes`
    bitmap: np.ndarray  # (2**BITS / 8,), uint8

    def found(self, hashes: np.ndarray) -> np.ndarray:
        """Where each hash stands in `hashes`, -1 for one that does not; (k,), int64."""
        places = np.full(len(hashes), -1, dtype=np.int64)
        low = hashes & np.uint64((1 << BITS) - 1)
        maybe = np.flatnonzero(self.bitmap[low >> np.uint64(3)] >> (low & np.uint64(7)).astype(np.uint8) & 1)
        if len(maybe) and len(self.hashes):
            at = np.minimum(np.searchsorted(self.hashes, hashes[maybe]), len(self.hashes) - 1)
            same = self.hashes[at] == hashes[maybe]
            places[maybe[same]] = at[same]
        return places


@dataclass(frozen=True, eq=False)
class Overlap:
    """What calibration windows share with evaluation texts."""

    n: int
    windows: np.ndarray  # (windows,), int64: n-grams of each that stand in an evaluation text
    texts: np.ndarray  # (texts,), float64: share of the n-grams of each that stand in a window; 0 for a short one
    short: int  # texts of fewer than n words or tokens, which can share nothing

    @property
    def contaminated(self) -> int:
        """Number of evaluation texts that share at least one n-gram."""
        return int((self.texts > 0).sum())


def index_texts(texts: Iterable[str], n: int = WORDS) -> Index:
    """The n-grams of words of evaluation texts: questions, few-shot examples, held-out documents."""
    return _index(texts, n, word_ngrams)


def index_tokens(texts: Iterable[np.ndarray], n: int = TOKENS) -> Index:
    """The n-grams of token ids of evaluation texts."""
    return _index(texts, n, token_ngrams)


def overlap(windows: Iterable[Any], index: Index) -> Overlap:
    """What the windows (texts or token ids, as the index) share with the texts of the index."""
    hits: list[np.ndarray] = []
    seen = np.zeros(len(index.hashes), dtype=bool)
    for batch in batches(windows, len):
        hashes, owners = index.hashing(batch, index.n)
        places = index.found(hashes)
        hits.append(np.bincount(owners[places >= 0], minlength=len(batch)))
        seen[places[places >= 0]] = True
    total = np.bincount(index.owners, minlength=index.texts)
    shared = np.bincount(index.owners[seen[index.places]], minlength=index.texts)
    counts = np.concatenate(hits) if hits else np.empty(0, dtype=np.int64)
    return Overlap(index.n, counts, shared / np.maximum(total, 1), index.short)


@dataclass(frozen=True, eq=False)
class Grouped:
    """An index whose texts fall into groups (tasks, held-out texts), so that one pass over windows tells them apart."""

    index: Index
    of_text: np.ndarray  # (texts,), int64: the group of each
    groups: int
    holders: np.ndarray  # (j,), int64: groups that hold a hash, hash after hash
    starts: np.ndarray  # (k + 1,), int64: those of hash i are holders[starts[i]:starts[i + 1]]


@dataclass(frozen=True, eq=False)
class GroupOverlap:
    """What windows share with each group of texts."""

    windows: np.ndarray  # (groups,), int64: windows that share an n-gram with a text of the group
    texts: np.ndarray  # (groups,), int64: texts of the group that share an n-gram with a window
    share: np.ndarray  # (groups,), float64: largest share of the n-grams of one of its texts that stand in the windows


def grouped(index: Index, of_text: Sequence[int], groups: int) -> Grouped:
    """The index with the group of each of its texts, a number from 0 to `groups` - 1."""
    group_of = np.asarray(of_text, dtype=np.int64)
    held = np.unique(index.places * groups + group_of[index.owners]) if groups else np.empty(0, dtype=np.int64)
    starts = np.searchsorted(held, np.arange(len(index.hashes) + 1) * groups)
    return Grouped(index, group_of, groups, held % max(groups, 1), starts)


def overlap_by_group(windows: Iterable[Any], known: Grouped) -> GroupOverlap:
    """What the windows (texts or token ids, as the index) share with each group."""
    index, groups = known.index, known.groups
    seen = np.zeros(len(index.hashes), dtype=bool)
    sharing = np.zeros(groups, dtype=np.int64)
    for batch in batches(windows, len):
        hashes, owners = index.hashing(batch, index.n)
        places = index.found(hashes)
        seen[places[places >= 0]] = True
        pairs = np.unique(np.stack([owners, places])[:, places >= 0], axis=1)
        counts = known.starts[pairs[1] + 1] - known.starts[pairs[1]]
        first = np.repeat(known.starts[pairs[1]] - np.cumsum(counts) + counts, counts)
        holders = known.holders[first + np.arange(len(first))]
        together = np.unique(np.repeat(pairs[0], counts) * groups + holders)
        sharing += np.bincount(together % max(groups, 1), minlength=groups)
    total = np.bincount(index.owners, minlength=index.texts)
    shares = np.bincount(index.owners[seen[index.places]], minlength=index.texts) / np.maximum(total, 1)
    largest = np.zeros(groups)
    np.maximum.at(largest, known.of_text, shares)
    return GroupOverlap(sharing, np.bincount(known.of_text[shares > 0], minlength=groups), largest)


def without_overlap(documents: Iterable[Document], index: Index) -> Iterator[Document | None]:
    """The documents in their order, None in place of each that shares an n-gram with an evaluation text."""
    for batch in batches(documents, lambda document: len(document.text)):
        hashes, owners = word_ngrams([document.text for document in batch], index.n)
        shared = set(owners[index.found(hashes) >= 0].tolist())
        yield from (None if number in shared else document for number, document in enumerate(batch))


def _index(texts: Iterable[Any], n: int, hashing: Hashing) -> Index:
    hashes, owners, count = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)], 0
    for batch in batches(texts, len):
        found, owner = hashing(batch, n)
        hashes.append(found)
        owners.append(owner + count)
        count += len(batch)
    everything, owner = np.concatenate(hashes), np.concatenate(owners)
    unique, places = np.unique(everything, return_inverse=True)
    bitmap = np.zeros(1 << (BITS - 3), dtype=np.uint8)
    low = unique & np.uint64((1 << BITS) - 1)
    bits = np.uint8(1) << (low & np.uint64(7)).astype(np.uint8)
    np.bitwise_or.at(bitmap, (low >> np.uint64(3)).astype(np.int64), bits)
    return Index(n, hashing, count, count - len(np.unique(owner)), unique, owner, places, bitmap)
