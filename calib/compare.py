"""Two calibration sets side by side: what they share, and how their tokens differ.

Sets of two tokenizers have no ids in common, so their windows and n-grams are compared by text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

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
    yield (
        "domains",
        *(", ".join(f"{label} {count}" for label, count in domains(built).items()) for built in (one, other)),
    )


def _shared(one: CalibrationSet, other: CalibrationSet) -> Iterator[Row]:
    same = one.tokenizer_id == other.tokenizer_id
    windows = [set(map(bytes, built.tokens)) if same else set(built.texts) for built in (one, other)]
    both = len(windows[0] & windows[1])
    yield "windows", *(f"{len(built)} ({both} in both)" for built in windows)
    documents = [{document for window in built.documents_in for document in window} for built in (one, other)]
    both = len(documents[0] & documents[1])
    yield "documents", *(f"{len(built)} ({both} in both)" for built in documents)
    grams = [
        np.unique(token_ngrams(list(built.tokens))[0] if same else word_ngrams(built.texts)[0])
        for built in (one, other)
    ]
    both = len(np.intersect1d(*grams, assume_unique=True))
    name = f"{TOKENS}-grams of tokens" if same else f"{WORDS}-grams of words"
    yield name, *(f"{len(built):,} ({100 * both / max(len(built), 1):.1f} % in the other)" for built in grams)


def _numbers(one: CalibrationSet, other: CalibrationSet) -> Iterator[Row]:
    described = [describe(built) for built in (one, other)]
    for name, value in described[0].items():
        second = described[1][name]
        if value is not None and second is not None:
            yield name, f"{value:.4g}", f"{second:.4g}"
    if one.tokenizer_id == other.tokenizer_id:
        apart = f"{divergence(one.tokens, other.tokens):.4f} bits"
        yield "unigram divergence between them", apart, apart
