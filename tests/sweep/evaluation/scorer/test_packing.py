"""Rows of prefix-sharing tries, against the plainest statement of what a mask must show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.suite import random_questions
from sweep.evaluation.questions.requests import Requests
from sweep.evaluation.scorer import scoring
from sweep.evaluation.scorer.attention import ExplicitMask
from sweep.evaluation.scorer.forward import CPU_TOKENS, CUDA_TOKENS, HeadRule, TokenBudget, head_rule, row_batches
from sweep.evaluation.scorer.packing import Packing, best_fit_decreasing, pack
from sweep.evaluation.scorer.scoring import CUDA_QUADRATIC_ROW, CUDA_ROW, PackedScorer, PlainScorer

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
    packed, packed_greedy = PackedScorer(requests, budget, rule, ExplicitMask(), 32).score(model)
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


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60), budget=st.integers(1, 200))
def test_every_row_is_in_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    sizes = np.asarray(lengths)
    batches = list(row_batches(sizes, budget))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for members in batches:
        longest = sizes[members].max()
        assert len(members) == 1 or len(members) * longest <= budget
        padded = int((sizes[members] < 0.95 * longest).sum())
        assert padded == 0 or len(members) <= budget // (4 * longest)


@pytest.mark.parametrize(
    ("row_length", "tokens"), [(None, CPU_TOKENS), (CUDA_QUADRATIC_ROW, CUDA_TOKENS), (CUDA_ROW, CUDA_TOKENS)]
)
@pytest.mark.parametrize("share", [0.02, 0.1])
def test_positions_of_the_papers_suite_are_at_least_97_percent_real(
    row_length: int | None, tokens: int, share: float
) -> None:
    requests = random_questions(share, 32000).requests
    scorer = PackedScorer(
        requests, TokenBudget(torch.device("cpu"), tokens=tokens), HeadRule(), ExplicitMask(), row_length
    )
    computed = sum(batch.tokens.numel() for batch in scorer.batches())
    assert scorer.packing.tokens / computed >= 0.97


def test_a_second_model_pays_nothing_for_the_requests(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = Requests.pack([(list(range(3, 23)), [30 + choice, 5]) for choice in range(9)], 96)
    first, second = make_model("llama"), make_model("llama", seed=1)
    rule = head_rule(first)
    assert rule is not None
    scorer = PackedScorer(requests, TokenBudget(torch.device("cpu")), rule, ExplicitMask())
    scorer.score(first)
    wanted, wanted_greedy = PackedScorer(requests, TokenBudget(torch.device("cpu")), rule, ExplicitMask()).score(second)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("batches or masks were built again")

    for name in ("pack", "_batch", "_padded", "row_batches"):
        monkeypatch.setattr(scoring, name, never)
    monkeypatch.setattr(ExplicitMask, "mask", never)
    found, greedy = scorer.score(second)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(greedy, wanted_greedy)


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
    wanted, _ = PackedScorer(requests, TokenBudget(torch.device("cpu")), rule, ExplicitMask(), 64).score(model)
    decoder = model.get_decoder()
    plain_forward = decoder.forward
    largest = []

    def forward(input_ids: torch.Tensor, **arguments: Any) -> Any:
        largest.append(input_ids.numel())
        if input_ids.numel() > 300:
            raise torch.OutOfMemoryError("pretended")
        return plain_forward(input_ids=input_ids, **arguments)

    budget = TokenBudget(torch.device("cpu"), tokens=1024)
    scorer = PackedScorer(requests, budget, rule, ExplicitMask(), 64)
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
