"""Reading, replacing and watching the linears of a block, whatever holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from methods.walk.decoder import decoder_blocks
from methods.walk.linears import Linear, experts_of, linears_of, unsupported, watched


def small(kind: str) -> Any:
    """A tiny model of that architecture, its first block and its hidden width of 32."""
    import transformers

    shape = {"vocab_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=4, n_positions=64, **shape)
        return transformers.GPT2LMHeadModel(config).eval()
    shape |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.MixtralConfig(num_key_value_heads=2, num_local_experts=4, **shape)
    return transformers.MixtralForCausalLM(config).eval()


def block_of(kind: str) -> Any:
    return decoder_blocks(small(kind))[0]


def test_every_weight_is_rows_by_cols_wherever_it_is_stored() -> None:
    transposed = {linear.name: linear for linear in linears_of(block_of("gpt2"))}
    assert {linear.kind for linear in transposed.values()} == {"conv1d"}
    assert transposed["mlp.c_fc"].weight.shape == (128, 32)
    experts = [linear for linear in linears_of(block_of("mixtral")) if linear.kind == "expert"]
    assert {tuple(linear.weight.shape) for linear in experts} == {(96, 32), (32, 48)}


@pytest.mark.parametrize("kind", ["gpt2", "mixtral"])
def test_what_is_stored_is_what_is_read_and_touches_no_other_linear(kind: str) -> None:
    linears = linears_of(block_of(kind))
    before = {linear.name: linear.weight.clone() for linear in linears}
    chosen = linears[-1]
    chosen.store(torch.ones_like(chosen.weight))
    for linear in linears:
        expected = torch.ones_like(linear.weight) if linear is chosen else before[linear.name]
        assert torch.equal(linear.weight, expected), linear.name


def test_experts_are_grouped_by_the_parameter_that_holds_them() -> None:
    groups = experts_of(block_of("mixtral"))
    assert [len(group) for group in groups] == [4, 4]
    assert [{linear.group for linear in group} for group in groups] == [
        {"mlp.experts.gate_up_proj"},
        {"mlp.experts.down_proj"},
    ]


def test_large_weights_that_are_no_linears_are_unsupported_and_small_ones_are_not() -> None:
    block = block_of("gpt2")
    assert unsupported(block) == []
    block.table = torch.nn.Embedding(400, 32)
    block.small = torch.nn.Embedding(2, 32)
    assert [(found.name, found.shape, found.kind) for found in unsupported(block)] == [
        ("table.weight", (400, 32), "Embedding")
    ]


def test_gates_with_a_single_output_are_left_out(make_llama: Callable[..., Any]) -> None:
    block = decoder_blocks(make_llama())[0]
    block.gate = torch.nn.Linear(32, 1)
    assert "gate" not in [linear.name for linear in linears_of(block)]


@pytest.mark.parametrize("kind", ["gpt2", "mixtral"])
def test_watching_shows_inputs_as_wide_as_the_weight_and_leaves_nothing_behind(kind: str) -> None:
    model = small(kind)
    linears, seen = linears_of(decoder_blocks(model)[0]), {}

    def watch(linear: Linear, inputs: torch.Tensor) -> None:
        seen[linear.name] = inputs.shape[-1]

    with torch.no_grad():
        tokens = torch.arange(40).reshape(2, 20)
        dense = model(tokens).logits
        with watched(linears, watch):
            assert torch.allclose(model(tokens).logits, dense, atol=1e-6)
        assert seen == {linear.name: linear.weight.shape[1] for linear in linears}
        seen.clear()
        model(tokens)
    assert not seen
