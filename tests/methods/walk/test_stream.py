"""A model is turned only if it is known of every parameter where it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from calib.settings import SettingsError
from methods.numerics.hadamard import Rotation
from methods.walk.stream import check_stream, norm_before, turn_outside, turn_readers, writes


def test_readers_and_writers_are_known_by_name() -> None:
    assert norm_before("self_attn.k_proj") == "input_layernorm"
    assert norm_before("mlp.experts.gate_up_proj") == norm_before("mlp.gate") == "post_attention_layernorm"
    assert norm_before("mlp.down_proj") is None
    assert writes("self_attn.o_proj")
    assert writes("mlp.experts.down_proj")
    assert not writes("mlp.up_proj")


def test_a_block_with_one_more_parameter_is_refused(make_llama: Callable[..., Any]) -> None:
    model = make_llama()
    check_stream(model)
    model.model.layers[1].mlp.scale = torch.nn.Parameter(torch.ones(64))
    with pytest.raises(SettingsError, match=r"mlp\.scale of block 1 is no part of LlamaForCausalLM"):
        check_stream(model)


def test_a_parameter_outside_of_the_blocks_that_is_not_known_is_refused(make_llama: Callable[..., Any]) -> None:
    model = make_llama()
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(96))
    with pytest.raises(SettingsError, match=r"lm_head\.bias is no part of"):
        check_stream(model)


def test_a_class_of_the_same_name_from_elsewhere_is_refused(make_llama: Callable[..., Any]) -> None:
    model = make_llama()
    model.__class__ = type("LlamaForCausalLM", (type(model),), {"__module__": "somebody.modeling"})
    with pytest.raises(SettingsError, match=r"residual stream of LlamaForCausalLM is not known"):
        check_stream(model)


def test_readers_take_the_gain_of_their_norm(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, gain, x = (torch.randn(shape, generator=generator).to(device) for shape in ((5, 64), (64,), (64,)))
    stream, turned = Rotation(64, 3), weight.clone()
    turn_readers(turned, stream, gain)
    assert torch.allclose(turned @ stream.rows(x).float(), weight @ (gain * x), atol=1e-4)


def test_a_tied_head_becomes_a_matrix_of_its_own_and_the_configuration_says_so(make_llama: Callable[..., Any]) -> None:
    model = make_llama(tie_word_embeddings=True)
    shared = model.config
    turn_outside(model, Rotation(32))
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert not model.config.tie_word_embeddings
    assert model.model.config is model.config
    assert shared.tie_word_embeddings  # whoever gives the model back gives this one back
