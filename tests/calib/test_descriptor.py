"""Descriptors against the plainest way to count, and on sets whose answer is known."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from calib.build import build
from calib.descriptor import DESCRIPTORS, Described, describe
from calib.source import get_source
from calib.spec import CalibrationSpec

RANDOM = np.random.default_rng(0).integers(0, 50, (6, 40)).astype(np.int32)


def value(name: str, tokens: Any, **more: Any) -> float | None:
    return DESCRIPTORS.get(name)(Described(np.asarray(tokens, dtype=np.int32), **more))


def test_token_entropy_is_the_sum_over_tokens() -> None:
    counts = Counter(RANDOM.ravel().tolist())
    expected = -sum(count / RANDOM.size * math.log2(count / RANDOM.size) for count in counts.values())
    assert value("token_entropy", RANDOM) == pytest.approx(expected)
    assert value("token_entropy", [[7, 7, 7]]) == 0
    assert value("token_entropy", [[0, 1, 2, 3]]) == 2


def test_ratio_and_coverage_count_different_tokens() -> None:
    assert value("type_token_ratio", [[1, 1, 2, 3]]) == 0.75
    assert value("vocabulary_coverage", [[1, 1, 2, 3]], vocabulary=30) == 0.1
    assert value("vocabulary_coverage", [[1, 1, 2, 3]]) is None


def test_piece_length_is_the_mean_over_pieces() -> None:
    assert value("piece_length", RANDOM, pieces=[[3, 5], [10]]) == 6
    assert value("piece_length", RANDOM) is None


def test_duplicate_share_sees_repeated_windows() -> None:
    assert value("duplicate_share", RANDOM) == 0
    assert value("duplicate_share", np.tile(RANDOM, (4, 1))) == 0.75
    assert value("duplicate_share", [[1, 2]]) == 0


@pytest.mark.parametrize("name", ["unigram_divergence", "bigram_divergence"])
def test_divergence_is_zero_for_the_same_text_and_one_for_disjoint(name: str) -> None:
    assert value(name, RANDOM, target=RANDOM) == pytest.approx(0, abs=1e-12)
    assert value(name, RANDOM, target=RANDOM + 100) == pytest.approx(1)
    assert value(name, RANDOM) is None


def test_unigram_divergence_is_the_textbook_formula() -> None:
    ours, target = [0] * 3 + [1], [0] + [1] * 3
    p, q = np.array([0.75, 0.25]), np.array([0.25, 0.75])
    expected = sum(0.5 * (x * np.log2(x / ((p + q) / 2))).sum() for x in (p, q))
    assert value("unigram_divergence", [ours], target=np.array([target])) == pytest.approx(expected)


def test_describe_has_every_descriptor_of_a_set(tokenizer: Any) -> None:
    source = get_source({"source": "random_tokens", "documents": 8, "length": 64})
    built = build(CalibrationSpec(source=source, set=0, nsamples=4, seqlen=64), tokenizer)
    found = describe(built, vocabulary=len(tokenizer), target=built.tokens)
    assert sorted(found) == DESCRIPTORS.names()
    assert [name for name, value in found.items() if value is None] == ["response_share"]  # of no conversation
    assert list(describe(built, names=["token_entropy"])) == ["token_entropy"]
