from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calib.settings import SettingsError
from methods.base import get_method, parse_method
from methods.blockwise import compress_model, decoder_blocks
from methods.walk import batches
from sweep.evaluation.questions.requests import Requests
from sweep.evaluation.scorer import states
from sweep.evaluation.scorer.choice import choose_scorer
from sweep.evaluation.scorer.forward import TokenBudget, body, head_rule
from sweep.evaluation.scorer.scoring import PlainScorer
from sweep.evaluation.scorer.states import ModelCall, final_states
from sweep.models import resolve_model
from sweep.weights import blocks
from sweep.weights.dense import DenseModel
from sweep.weights.hashes import weights_hash
from sweep.weights.streaming import StreamedModel
from tests.sweep.weights.conftest import Save, pair, present


def test_evaluation_reads_every_block_once_for_all_batches(llama: Path) -> None:
    dense, streamed = pair(llama)
    calls = [ModelCall(torch.arange(n, n + 20)[None] % 257) for n in range(5)]
    seen = []
    for block in decoder_blocks(streamed.model):
        block.register_forward_pre_hook(lambda *_: seen.append(present(streamed.model)))
    with torch.inference_mode():
        found = list(final_states(streamed.model, calls))
        expected = [body(dense.model, call.tokens) for call in calls]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert streamed.blocks.traffic.loads == 3
    assert max(seen) == 1
    assert present(streamed.model) == 0


def test_last_block_is_narrowed_like_that_of_a_whole_model(llama: Path) -> None:
    dense, streamed = pair(llama)
    requests = Requests.pack([([1, 2, 3], [4, 5]), ([1, 2, 3], [6]), ([9, 8], [7])], 64)
    budget = TokenBudget(torch.device("cpu"))
    expected = choose_scorer(dense.model, requests, budget, head_rule(dense.model))
    with streamed.blocks.sample() as small:
        found = choose_scorer(small, requests, budget, head_rule(small))
    assert set(found.placewise) == set(expected.placewise) == {"mlp", "self_attn.q_proj", "self_attn.o_proj"}
    seen: list[int] = []
    for held in (dense, streamed):
        last = decoder_blocks(held.model)[-1].mlp.down_proj
        last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][..., 0].numel()))
    scores = [scorer.score(held.model)[0] for scorer, held in ((expected, dense), (found, streamed))]
    assert np.array_equal(*scores)
    assert len(set(seen)) == 1
    assert seen[0] < expected.batches()[0].tokens.numel()


def test_frequencies_that_follow_the_length_are_the_same_whole_and_streamed_and_after_a_trial(save: Save) -> None:
    dense, streamed = pair(save("dynamic"))
    requests = Requests.pack([(list(range(3, 3 + length)), [4, 5]) for length in (5, 14, 15, 16, 30, 40)], 64)
    budget = TokenBudget(torch.device("cpu"))
    whole = choose_scorer(dense.model, requests, budget, head_rule(dense.model))
    with streamed.blocks.sample() as small:
        parts = choose_scorer(small, requests, budget, head_rule(small))
    assert whole.name == parts.name == "packed, explicit mask"
    before = whole.score(dense.model)[0]
    assert np.array_equal(parts.score(streamed.model)[0], before)
    windows = np.random.default_rng(0).integers(3, 90, (4, 24), np.int32)
    for held in (dense, streamed):
        compress_model(held.model, get_method("wanda", sparsity=0.5), windows)
    assert weights_hash(streamed.model) == weights_hash(dense.model)
    after = whole.score(dense.model)[0]
    assert np.array_equal(parts.score(streamed.model)[0], after)
    assert not np.array_equal(after, before)
    for scorer, held in ((whole, dense), (parts, streamed)):
        held.restore()
        assert np.array_equal(scorer.score(held.model)[0], before)


def test_batches_go_in_waves_when_memory_is_short(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense, streamed = pair(llama)
    calls = [ModelCall(torch.arange(n, n + 20)[None] % 257) for n in range(5)]
    room = 2.5 * 20 * 32 * 4  # bytes: two calls and a half
    monkeypatch.setattr(states, "host_memory", lambda: int(room / states.HOST_SHARE))
    with torch.inference_mode():
        found = list(final_states(streamed.model, calls))
        expected = [body(dense.model, call.tokens) for call in calls]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert streamed.blocks.traffic.loads == 3 * 3  # waves of 2, 2 and 1


def test_head_that_cannot_be_run_alone_is_scored_streamed(llama: Path) -> None:
    dense, streamed = pair(llama)
    requests = Requests.pack([([1, 2, 3], [4, 5]), ([1, 2, 3], [6]), ([9, 8], [7])], 64)
    budget = TokenBudget(torch.device("cpu"))
    found, expected = (PlainScorer(requests, budget, None).score(held.model) for held in (streamed, dense))
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])


def test_decoder_that_works_between_its_blocks_is_refused(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, input_ids: Any, **_: Any) -> Any:
        start = hidden = self.embed_tokens(input_ids)
        positions = self.rotary_emb(hidden, position_ids=torch.arange(input_ids.shape[1])[None])
        for block in self.layers:
            hidden = block(hidden, position_embeddings=positions) + start
        return (self.norm(hidden),)

    _, streamed = pair(llama)
    monkeypatch.setattr(blocks, "block_kinds", lambda *_: ["first", "second", "second"])
    with streamed.blocks.sample() as small:
        states.check_blocks_alone(small, streamed.blocks.blocks)
        monkeypatch.setattr(type(small.model), "forward", forward)
        with pytest.raises(SettingsError, match="hand more to each other than hidden states"):
            states.check_blocks_alone(small, streamed.blocks.blocks)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "entry", [{"method": "gptq", "group_size": 32}, {"method": "awq", "group_size": 32}, {"method": "svd"}], ids=str
)
def test_hidden_states_that_wait_on_the_host_change_no_bit(
    entry: dict[str, Any], tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = parse_method(entry, "method")
    ref = resolve_model({"model": "reference-2m", "dtype": "bfloat16"}, "m")
    dense, streamed = DenseModel(ref, "cuda"), StreamedModel(ref, "cuda")
    compress_model(dense.model, method, tokens, batch_size=2)
    monkeypatch.setattr(batches, "HIDDEN_SHARE", 0.0)
    monkeypatch.setattr(states, "DEVICE_SHARE", 0.0)
    compress_model(streamed.model, method, tokens, batch_size=2)
    assert weights_hash(streamed.model) == weights_hash(dense.model)
    calls = [ModelCall(torch.as_tensor(part, device="cuda").long()) for part in np.split(tokens, 2)]
    with torch.inference_mode():
        found = list(final_states(streamed.model, calls))
        assert all(torch.equal(ours, body(dense.model, call.tokens)) for ours, call in zip(found, calls, strict=True))
