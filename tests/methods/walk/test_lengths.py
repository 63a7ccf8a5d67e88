"""Frequencies that follow the length of a call: which lengths may share one, and that no call remembers another."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from methods.base import get_method
from methods.blockwise import compress_model
from methods.walk.batches import Data, capture
from methods.walk.decoder import decoder_blocks
from methods.walk.gradients import squared_gradients
from methods.walk.lengths import LengthRule, forgetful, length_rule
from methods.walk.linears import linears_of

CONTEXT = 32  # tokens of the training before
SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": CONTEXT,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
}

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns about itself


def build(kind: str = "llama", rope: dict[str, Any] | None = None, **changes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {**SHAPE, "max_position_embeddings": 4 * CONTEXT, **changes}
    settings |= {} if rope is None else {"rope_parameters": copy.deepcopy(rope)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings), dtype=torch.float32).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, 0.25)
    return model


def dynamic() -> Any:
    return build(rope=DYNAMIC, max_position_embeddings=CONTEXT)


def rule_of(model: Any) -> LengthRule:
    return length_rule(model, lambda tokens: model(input_ids=tokens, use_cache=False))


def draw(*shape: int) -> torch.Tensor:
    return torch.randint(3, 96, shape, generator=torch.Generator().manual_seed(1))


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
    return found


@pytest.mark.parametrize(
    "rope",
    [
        None,
        {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
        {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": CONTEXT},
        {
            "rope_type": "llama3",
            "factor": 4.0,
            "rope_theta": 1e4,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": CONTEXT,
        },
    ],
    ids=["default", "linear", "yarn", "llama3"],
)
def test_all_lengths_share_frequencies_that_are_fixed(rope: dict[str, Any] | None) -> None:
    rule = rule_of(build(rope=rope))
    assert rule.calls
    assert rule.turn(4 * CONTEXT) is None
    assert set(rule.classes(range(1, 4 * CONTEXT))) == {0}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("phi3", {"original_max_position_embeddings": CONTEXT}),
        ("phimoe", {"num_local_experts": 2}),
    ],
)
def test_longrope_parts_lengths_at_the_original_context(kind: str, changes: dict[str, Any]) -> None:
    scales = {"short_mscale": 1.1, "long_mscale": 1.4} if kind == "phimoe" else {}
    rule = rule_of(build(kind, {**LONGROPE, **scales}, **changes))
    assert rule.turn(4 * CONTEXT) == CONTEXT
    assert rule.turn(CONTEXT) is None
    lengths = [1, CONTEXT - 1, CONTEXT, CONTEXT + 1, 3 * CONTEXT]
    assert rule.classes(lengths) == [0, 0, 0, 1, 1]


def test_dynamic_scaling_parts_every_length_beyond_the_context() -> None:
    rule = rule_of(dynamic())
    assert rule.turn(4 * CONTEXT) == CONTEXT
    assert rule.classes([3, CONTEXT, CONTEXT + 1, CONTEXT + 2, CONTEXT + 1]) == [0, 0, 1, 2, 1]


def test_frequencies_of_any_kind_of_layer_part_lengths() -> None:
    rope = {"sliding_attention": {"rope_type": "default", "rope_theta": 1e3}, "full_attention": DYNAMIC}
    kinds = ["sliding_attention", "full_attention"]
    sizes = {"head_dim": 8, "sliding_window": 8, "layer_types": kinds, "max_position_embeddings": CONTEXT}
    assert rule_of(build("gemma3_text", rope, **sizes)).turn(4 * CONTEXT) == CONTEXT


def test_a_model_without_rotary_modules_has_one_class() -> None:
    model = build("gpt2", n_embd=32, n_layer=2, n_head=4)
    assert rule_of(model).turn(100) is None


@pytest.mark.parametrize("length", [5, CONTEXT, CONTEXT + 4])
def test_no_call_finds_what_a_longer_one_left(length: int) -> None:
    model, fresh, tokens = dynamic(), dynamic(), draw(1, length)
    wanted = logits(fresh, tokens)
    with forgetful(model):
        logits(model, draw(1, 3 * CONTEXT))
        assert torch.equal(logits(model, tokens), wanted)
        logits(model, draw(1, 3 * CONTEXT))
    assert torch.equal(logits(model, tokens), wanted)
    logits(model, draw(1, 3 * CONTEXT))  # the model's own behaviour, without which there is nothing to forget
    assert torch.equal(logits(model, tokens), wanted) == (length < CONTEXT)


def test_forgetting_leaves_no_hook() -> None:
    model = dynamic()
    with forgetful(model):
        pass
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("method", ["wanda", "gptq"])
def test_a_compressed_model_does_not_depend_on_what_ran_before(method: str) -> None:
    tokens = draw(3, CONTEXT + 4).numpy()
    models = dynamic(), dynamic()
    logits(models[0], draw(1, 3 * CONTEXT))
    for model in models:
        compress_model(model, get_method(method), tokens)
    for found, wanted in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(found, wanted)
    short = draw(1, CONTEXT)
    assert torch.equal(logits(models[0], short), logits(models[1], short))


@pytest.mark.parametrize("rope", [DYNAMIC, LONGROPE], ids=["dynamic", "longrope"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_padded_window_is_walked_with_the_frequencies_of_its_own_length(rope: dict[str, Any], side: str) -> None:
    model = build(rope=rope, max_position_embeddings=CONTEXT if rope is DYNAMIC else 4 * CONTEXT)
    lengths, size = [10, 2 * CONTEXT, CONTEXT + 5, 20], 2 * CONTEXT
    tokens = draw(len(lengths), size)
    mask = torch.zeros_like(tokens)
    for row, length in enumerate(lengths):
        mask[row, slice(length) if side == "right" else slice(size - length, size)] = 1
    blocks, found = decoder_blocks(model), []
    with torch.no_grad(), forgetful(model):
        batches = capture(model, blocks, Data(tokens, mask))
        for batch in range(len(batches)):
            hidden = batches.run(blocks[0], 0, batch)
            for row, valid in zip(hidden, batches.valid[batch].view(len(hidden), size), strict=True):
                found.append(row[valid])
        for row, length in enumerate(lengths):
            alone = capture(model, blocks, Data(tokens[row][mask[row].bool()][None]))
            wanted = alone.run(blocks[0], 0, 0)[0]
            assert any(len(each) == length and torch.allclose(each, wanted, atol=1e-5) for each in found)


def test_gradients_of_a_padded_window_are_those_of_its_tokens_alone() -> None:
    model, tokens = dynamic(), draw(1, 2 * CONTEXT)
    mask = torch.zeros_like(tokens)
    mask[0, :12] = 1
    linears = linears_of(decoder_blocks(model)[0])
    padded = squared_gradients(model, linears, tokens, mask)
    alone = squared_gradients(model, linears, tokens[:, :12])
    for number in alone:
        for found, wanted in zip(padded[number], alone[number], strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-9)


def test_padding_moves_no_batch_where_frequencies_are_fixed() -> None:
    model, tokens = build(), draw(4, 24)
    mask = np.ones((4, 24), np.int64)
    mask[2, 10:] = 0
    with torch.no_grad():
        batches = capture(model, decoder_blocks(model), Data(tokens, mask, batch_size=3))
        wanted = model.get_input_embeddings()(tokens)
    assert torch.equal(torch.cat(batches.hidden), wanted)
