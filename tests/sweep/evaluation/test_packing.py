"""Rows of prefix-sharing tries, against the plainest statement of what a mask must show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.evaluation.forward import HeadRule, TokenBudget, head_rule
from sweep.evaluation.packing import Packing, best_fit_decreasing, pack
from sweep.evaluation.requests import Requests
from sweep.evaluation.scoring import PackedScorer, PlainScorer

CONTEXT = 24

# few distinct tokens, so that prefixes are shared often
TOKENS = st.lists(st.integers(3, 5), min_size=1, max_size=40)
PAIRS = st.lists(st.tuples(TOKENS, st.lists(st.integers(3, 5), min_size=1, max_size=CONTEXT)), min_size=1, max_size=12)


def seen_tokens(packing: Packing, row: int, place: int) -> list[int]:
    """The tokens that a position attends to, in the order of their positions."""
    tokens, ends = packing.rows[row].tokens, packing.rows[row].ends
    seen = [k for k in range(place + 1) if place < ends[k]]
    assert [packing.rows[row].positions[k] for k in seen] == list(range(len(seen)))
    return [int(tokens[k]) for k in seen]


@settings(deadline=None, max_examples=60)
@given(pairs=PAIRS, row_length=st.integers(4, 64))
def test_each_prediction_sees_exactly_its_own_sequence(
    pairs: list[tuple[list[int], list[int]]], row_length: int
) -> None:
    requests = Requests.pack(pairs, CONTEXT)
    packing = pack(requests, row_length)
    asked: dict[int, list[tuple[list[int], int]]] = {}
    for number in range(len(packing.target)):
        request = int(packing.request_of[number])
        seen = seen_tokens(packing, int(packing.row_of[number]), int(packing.place_of[number]))
        asked.setdefault(request, []).append((seen, int(packing.target[number])))
    for request in range(len(requests)):
        sequence = requests.sequence(request).tolist()
        count = int(requests.continuation[request])
        wanted = [(sequence[:cut], sequence[cut]) for cut in range(len(sequence) - count, len(sequence))]
        assert asked[request] == wanted


@settings(deadline=None, max_examples=60)
@given(pairs=PAIRS, row_length=st.integers(4, 64))
def test_rows_keep_their_length_unless_one_sequence_is_longer(
    pairs: list[tuple[list[int], list[int]]], row_length: int
) -> None:
    requests = Requests.pack(pairs, CONTEXT)
    packing = pack(requests, row_length)
    longest = max(len(requests.sequence(number)) - 1 for number in range(len(requests)))
    assert all(len(row.tokens) <= max(row_length, longest) for row in packing.rows)
    assert packing.tokens <= packing.requested_tokens


@settings(deadline=None, max_examples=6)
@given(pairs=PAIRS)
def test_packed_scores_equal_plain_scores(pairs: list[tuple[list[int], list[int]]]) -> None:
    model = _model()
    requests = Requests.pack(pairs, CONTEXT)
    budget = TokenBudget(torch.device("cpu"))
    rule = HeadRule()
    packed, packed_greedy = PackedScorer(requests, budget, rule, row_length=32).score(model)
    plain, plain_greedy = PlainScorer(requests, budget, rule).score(model)
    np.testing.assert_allclose(packed, plain, atol=1e-4, rtol=0)
    np.testing.assert_array_equal(packed_greedy, plain_greedy)


_cache: list[Any] = []


def _model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    if not _cache:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
            _cache.append(LlamaForCausalLM(LlamaConfig(vocab_size=8, initializer_range=0.3, **shape)).eval())
    return _cache[0]


def test_contexts_are_cut_from_the_left_and_counted() -> None:
    requests = Requests.pack([(list(range(10)), [7, 8]), ([1], [2])], max_length=5)
    assert requests.truncated == 1
    assert requests.sequence(0).tolist() == [6, 7, 8, 9, 7, 8]  # five inputs and the last target


def test_a_shared_context_is_computed_once() -> None:
    context = list(range(3, 23))
    requests = Requests.pack([(context, [30 + choice, 5, 6]) for choice in range(4)], 64)
    packing = pack(requests, 64)
    assert packing.tokens == 20 + 4 * 2
    assert packing.requested_tokens == 4 * 22


def test_a_trie_may_be_longer_than_a_row_of_small_ones() -> None:
    context = list(range(3, 43))
    requests = Requests.pack([(context, [50 + choice] * 9) for choice in range(4)], 64)
    assert pack(requests, 50).tokens == 4 * 48  # two branches do not fit one row
    longer = pack(requests, 50, 80)
    assert longer.tokens == 40 + 4 * 8
    assert [len(row.tokens) for row in longer.rows] == [72]


def test_rows_are_nearly_full() -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(1500):
        context = [1, *rng.integers(3, 8000, rng.integers(10, 120)).tolist()]
        pairs += [(context, rng.integers(3, 8000, rng.integers(1, 12)).tolist()) for _ in range(4)]
    packing = pack(Requests.pack(pairs, 2048), 2048)
    assert packing.tokens / (len(packing.rows) * 2048) > 0.97


@given(sizes=st.lists(st.integers(1, 20), max_size=40), capacity=st.integers(1, 16))
def test_every_item_lies_in_one_bin_and_bins_do_not_overflow(sizes: list[int], capacity: int) -> None:
    bins = best_fit_decreasing(sizes, capacity)
    assert sorted(item for members in bins for item in members) == list(range(len(sizes)))
    assert all(sum(sizes[item] for item in members) <= capacity or len(members) == 1 for members in bins)


def test_memory_shortage_halves_the_batches_and_is_remembered(make_model: Callable[..., Any]) -> None:
    model = make_model("llama")
    rng = np.random.default_rng(0)
    requests = Requests.pack([(rng.integers(3, 400, 30).tolist(), [5, 6]) for _ in range(20)], 96)
    rule = head_rule(model)
    assert rule is not None
    wanted, _ = PackedScorer(requests, TokenBudget(torch.device("cpu")), rule, row_length=64).score(model)
    decoder = model.get_decoder()
    plain_forward = decoder.forward
    largest = []

    def forward(input_ids: torch.Tensor, **arguments: Any) -> Any:
        largest.append(input_ids.numel())
        if input_ids.numel() > 300:
            raise torch.OutOfMemoryError("pretended")
        return plain_forward(input_ids=input_ids, **arguments)

    budget = TokenBudget(torch.device("cpu"), tokens=1024)
    scorer = PackedScorer(requests, budget, rule, row_length=64)
    decoder.forward = forward
    found, _ = scorer.score(model)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert budget.tokens == 256
    largest.clear()
    scorer.score(model)
    assert max(largest) <= 256


def test_a_request_that_fits_no_memory_at_all_fails(make_model: Callable[..., Any]) -> None:
    model = make_model("llama")
    rule = head_rule(model)
    assert rule is not None

    def forward(**arguments: Any) -> Any:
        raise torch.OutOfMemoryError("pretended")

    model.get_decoder().forward = forward
    with pytest.raises(torch.OutOfMemoryError):
        PlainScorer(Requests.pack([([3], [4])], 96), TokenBudget(torch.device("cpu")), rule).score(model)
