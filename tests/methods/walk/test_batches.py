from __future__ import annotations

import numpy as np
import pytest
import torch

from calib.settings import SettingsError
from methods.base import get_method
from methods.blockwise import compress_model
from methods.walk.batches import Data, capture
from methods.walk.decoder import decoder_blocks
from methods.walk.linears import linears_of


def weights_of(model):
    return {f"{i}.{t.name}": t.weight.clone() for i, b in enumerate(decoder_blocks(model)) for t in linears_of(b)}


def assert_same_weights(first, second, close=False):
    for name, weight in weights_of(first).items():
        other = weights_of(second)[name]
        assert torch.allclose(weight, other, rtol=1e-3, atol=1e-5) if close else torch.equal(weight, other), name


def test_hidden_states_in_host_memory_change_nothing(make_llama, tokens):
    models = [make_llama(), make_llama()]
    for model, offload in zip(models, (False, True), strict=True):
        compress_model(model, get_method("gptq"), tokens, offload=offload)
    assert_same_weights(*models)


def test_wrong_tokens_are_refused(make_llama, tokens):
    with pytest.raises(SettingsError, match=r"tokens: expected \[nsamples, seqlen\]"):
        compress_model(make_llama(), get_method("gptq"), tokens[0])
    with pytest.raises(SettingsError, match="attention_mask: expected the shape of tokens"):
        compress_model(make_llama(), get_method("gptq"), tokens, attention_mask=np.ones((2, 2)))


def test_equal_arguments_of_batches_are_kept_once(make_llama, tokens):
    model = make_llama()
    with torch.no_grad():
        batches = capture(model, decoder_blocks(model), Data(tokens, batch_size=2))
    assert len(batches) == 3
    cos = [batches.arguments[b][i][1]["position_embeddings"][0] for b in range(3) for i in range(3)]
    assert len({id(tensor) for tensor in cos}) == 1


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_batch_size_changes_only_rounding(make_llama, tokens, batch_size):
    models = [make_llama(), make_llama()]
    for model, size in zip(models, (2, batch_size), strict=True):
        compress_model(model, get_method("wanda"), tokens, batch_size=size)
    for name, weight in weights_of(models[0]).items():
        same = (weight == weights_of(models[1])[name]).double().mean()
        assert same > 0.99, name


def test_an_array_that_is_shared_and_read_only_is_taken(make_llama, tokens):
    model = make_llama()
    shared = tokens.copy()
    shared.setflags(write=False)
    with torch.no_grad():
        first, second = (
            capture(model, decoder_blocks(model), Data(each, token_weights=each + 1)) for each in (tokens, shared)
        )
    assert all(torch.equal(a, b) for a, b in zip(first.hidden, second.hidden, strict=True))
