"""Two calibration sets side by side: what they share, and how their tokens differ.

Sets of two tokenizers have no ids in common, so their windows and n-grams are compared by text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set

import numpy as np

from calib.descriptor import describe, divergence
from calib.ngrams import TOKENS, WORDS, token_ngrams, word_ngrams
from calib.spec import CalibrationSet

Row = tuple[str, str, str]


def compare(one: CalibrationSet, other: CalibrationSet) -> list[Row]:
    """(what, in the first set, in the second) line by line; what both share stands in both."""
    return [*_settings(one, other), *_shared(one, other), *_numbers(one, other)]


def domains(calibration_set: CalibrationSet) -> dict[str, int]:
    """Windows by the part of the mixture they come from; all under the source's label for any other source."""
    labels = [source.label for source, _ in calibration_set.spec.source.components()]
    if len(labels) == 1:
        return {labels[0]: len(calibration_set.tokens)}
    counts: Counter[str] = Counter()
    for documents in calibration_set.documents_in:
        counts[next((label for label in labels if documents and documents[0].startswith(f"{label}/")), "?")] += 1
    return dict(sorted(counts.items()))


def _settings(one: CalibrationSet, other: CalibrationSet) -> Iterator[Row]:
    yield "id", one.id, other.id
    yield "hash", one.hash[:16], other.hash[:16]
    first, second = (built.spec.to_dict(built.revision) for built in (one, other))
    for key in sorted({*first, *second}):
        if first.get(key) != second.get(key):
            yield key, str(first.get(key, "-")), str(second.get(key, "-"))
    yield "tokenizer", one.tokenizer_id, other.tokenizer_id
    yield "domains", _domains(one), _domains(other)


def _domains(calibration_set: CalibrationSet) -> str:
    return ", ".join(f"{label} {count}" for label, count in domains(calibration_set).items())


def _shared(one: CalibrationSet, other: CalibrationSet) -> Iterator[Row]:
    same = one.tokenizer_id == other.tokenizer_id
    yield _in_both("windows", *(set(map(bytes, built.tokens)) if same else set(built.texts) for built in (one, other)))
    yield _in_both("documents", *({id for window in built.documents_in for id in window} for built in (one, other)))
    hashed = [token_ngrams(list(built.tokens)) if same else word_ngrams(built.texts) for built in (one, other)]
    first, second = (np.unique(hashes) for hashes, _ in hashed)
    both = len(np.intersect1d(first, second, assume_unique=True))
    name = f"{TOKENS}-grams of tokens" if same else f"{WORDS}-grams of words"
    yield name, _share(len(first), both), _share(len(second), both)


def _in_both(name: str, first: Set[bytes] | Set[str], second: Set[bytes] | Set[str]) -> Row:
    both = len(first & second)  # type: ignore[operator]
    return name, f"{len(first)} ({both} in both)", f"{len(second)} ({both} in both)"


def _share(count: int, both: int) -> str:
    return f"{count:,} ({100 * both / max(count, 1):.1f} % in the other)"


def _numbers(one: CalibrationSet, other: CalibrationSet) -> Iterator[Row]:
    described = [describe(built) for built in (one, other)]
    for name, value in described[0].items():
        second = described[1][name]
        if value is not None and second is not None:
            yield name, f"{value:.4g}", f"{second:.4g}"
    if one.tokenizer_id == other.tokenizer_id:
        apart = f"{divergence(one.tokens, other.tokens):.4f} bits"
        yield "unigram divergence between them", apart, apart
