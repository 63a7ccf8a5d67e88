"""Hashes of n-grams, over words of normalised text and over tokens: what overlap, duplicates and similarity count.

A word is a run of letters and digits, case-folded; every byte beyond ASCII counts as a letter, so text without blanks
(Chinese) has few words and is better compared by tokens. All of it is numpy on the bytes of the text: a polynomial in
an odd base, modulo 2**64, has inverse powers, so the hash of every word and every n-gram comes out of one running sum.
Two different n-grams share a hash with a probability of about 2**-64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

WORDS = 8  # words of an n-gram of text, unless another number is stated
TOKENS = 13  # tokens of an n-gram of ids
BATCH = 1 << 22  # bytes or tokens hashed at a time
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2**64
_SEPARATOR = np.uint8(0)  # between texts; no byte of a word
_LETTERS = np.zeros(256, dtype=np.uint8)
for _byte in (*range(48, 58), *range(97, 123), *range(128, 256)):
    _LETTERS[_byte] = _byte


def word_ngrams(texts: Sequence[str], n: int = WORDS) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of all runs of n words in the texts, and which text each is from; (k,) uint64, (k,) int64."""
    encoded = [text.casefold().encode("utf-8", "replace") for text in texts]
    data = np.frombuffer(b"\0".join(encoded) + b"\0", dtype=np.uint8)
    ends = np.cumsum([len(one) + 1 for one in encoded])
    letters = _LETTERS[data]
    inside = letters != _SEPARATOR
    starts = np.flatnonzero(inside & ~np.concatenate([[False], inside[:-1]]))
    stops = np.flatnonzero(inside & ~np.concatenate([inside[1:], [False]])) + 1
    words = _runs(letters.astype(np.uint64), starts, stops)
    return _ngrams(mixed(words), np.searchsorted(ends, starts, side="right"), n)


def token_ngrams(windows: Sequence[np.ndarray], n: int = TOKENS) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of all runs of n ids in the windows, and which window each is from; (k,) uint64, (k,) int64."""
    ids = np.concatenate([np.asarray(window).ravel() for window in windows] or [np.empty(0)]).astype(np.uint64)
    owner = np.repeat(np.arange(len(windows)), [np.size(window) for window in windows])
    return _ngrams(mixed(ids + np.uint64(1)), owner, n)


def batches(items: Iterable[T], size_of: Callable[[T], int], size: int = BATCH) -> Iterator[list[T]]:
    """The items in lists of about `size` together, as `size_of` counts: characters, or tokens."""
    batch: list[T] = []
    length = 0
    for item in items:
        batch.append(item)
        length += size_of(item)
        if length >= size:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def mixed(values: np.ndarray) -> np.ndarray:
    """The values with their bits mixed, so that near ones are far apart (the finalizer of splitmix64)."""
    values = values * np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _runs(values: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """A polynomial hash of each run values[start:stop], the same wherever it stands."""
    powers = _powers(_BASE, len(values))
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(values * powers, dtype=np.uint64)])
    inverse = _powers(pow(_BASE, -1, 1 << 64), len(values))
    return (sums[stops] - sums[starts]) * inverse[starts] if len(starts) else np.empty(0, dtype=np.uint64)


def _powers(base: int, count: int) -> np.ndarray:
    """base**0, base**1, ..., modulo 2**64; (count,), uint64."""
    return _known_powers(base, 1 << max(count - 1, 0).bit_length())[:count]


@functools.lru_cache(maxsize=4)
def _known_powers(base: int, count: int) -> np.ndarray:
    powers = np.full(count, np.uint64(base))
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _ngrams(items: np.ndarray, owner: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of n items in a row that have one owner."""
    count = len(items) - n + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    hashes = items[:count].copy()
    for place in range(1, n):
        hashes *= np.uint64(_BASE)
        hashes += items[place : place + count]
    whole = owner[:count] == owner[n - 1 :]
    return mixed(hashes[whole]), owner[:count][whole].astype(np.int64)
