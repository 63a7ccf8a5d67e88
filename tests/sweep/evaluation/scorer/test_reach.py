"""How far trial sequences reach: beyond every length that changes what an architecture does, and no further."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from methods.walk.lengths import LengthRule
from sweep.evaluation.scorer.reach import BEYOND, LONGEST, SHORT, trial_sequences, turns


class Config:
    """A text configuration that knows these settings."""

    vocab_size = 50

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.max_position_embeddings = values.get("max_position_embeddings")

    def to_dict(self) -> dict[str, Any]:
        return self.values


class Turning(LengthRule):
    """Frequencies that change beyond a length."""

    def __init__(self, at: int | None) -> None:
        super().__init__([(None, (), {})])
        object.__setattr__(self, "at", at)

    def table(self, length: int) -> bytes:
        return b"long" if self.at is not None and length > self.at else b"short"  # type: ignore[attr-defined]


NONE = LengthRule([])


@pytest.mark.parametrize(
    "values",
    [
        {"sliding_window": 200},
        {"attention_chunk_size": 200},
        {"text": {"window_size": 200}},
        {"layers": [{"local_attention": 200}]},
        {"compress_rates": {"heavily": 200, "lightly": 4}},
        {"index_topk": 200, "hidden_size": 220, "num_local_experts": 230, "max_window_layers": 240, "vocab_size": 250},
        {"rope_parameters": {"original_max_position_embeddings": 200}},
    ],
    ids=str,
)
def test_limits_are_found_under_any_name(values: dict[str, Any]) -> None:
    reached, untried = turns(Config(**values), NONE, longest=210, places=0)
    assert (reached, untried) == ([200], None)


def test_a_limit_that_no_request_and_no_row_reaches_costs_nothing() -> None:
    config = Config(sliding_window=4096, max_position_embeddings=512)
    assert turns(config, NONE, longest=512, places=512) == ([], None)
    assert len(trial_sequences(config, NONE, longest=512, places=512).requests) == 16


def test_a_limit_within_a_row_is_reached_though_requests_are_short() -> None:
    assert turns(Config(sliding_window=300), NONE, longest=40, places=512) == ([300], None)


def test_the_longest_request_is_reached_where_limits_may_multiply() -> None:
    assert turns(Config(index_block_size=64, index_topk_blocks=4), NONE, longest=900, places=0) == ([64, 880], None)


def test_a_limit_that_is_too_long_is_told() -> None:
    assert turns(Config(sliding_window=LONGEST + 1), NONE, longest=LONGEST, places=0) == ([], None)
    assert turns(Config(sliding_window=LONGEST + 1), NONE, longest=2 * LONGEST, places=0)[1] == LONGEST + 1


def test_rotary_modules_answer_for_contexts() -> None:
    config = Config(rope_parameters={"original_max_position_embeddings": 2 * LONGEST})
    assert turns(config, NONE, longest=3 * LONGEST, places=0)[1] == 2 * LONGEST
    assert turns(config, Turning(None), longest=3 * LONGEST, places=0)[1] is None
    assert turns(config, Turning(2 * LONGEST), longest=3 * LONGEST, places=0)[1] == 2 * LONGEST


@pytest.mark.parametrize("turn", [SHORT - 20, 64])
def test_sequences_lie_right_before_and_right_behind_a_turn(turn: int) -> None:
    sequences = trial_sequences(Config(max_position_embeddings=256), Turning(turn), longest=70, places=0)
    inputs = np.diff(sequences.requests.offsets) - 1
    assert {turn - 1, turn, turn + 1, turn + BEYOND} <= set(inputs[sequences.part == 1].tolist())


def test_no_sequence_is_longer_than_the_models_table() -> None:
    sequences = trial_sequences(Config(max_position_embeddings=64, sliding_window=60), NONE, longest=64, places=64)
    assert (np.diff(sequences.requests.offsets) - 1).max() == 64
