from __future__ import annotations

import numpy as np
import pytest
import torch

from methods.base import get_method
from methods.blockwise import compress_model
from methods.inputs.hessian import Hessian
from methods.walk.decoder import decoder_blocks
from methods.walk.linears import linears_of


def weights_of(model):
    return {f"{i}.{t.name}": t.weight.clone() for i, b in enumerate(decoder_blocks(model)) for t in linears_of(b)}


@pytest.mark.parametrize("name", ["gptq", "wanda", "sparsegpt"])
def test_padding_never_enters_a_statistic(make_llama, tokens, name):
    """Two windows padded on the right give what the same windows without padding give."""
    short = tokens[:, :16]
    padded = np.concatenate([short, np.full((6, 8), 7, dtype=np.int32)], axis=1)
    mask = np.concatenate([np.ones((6, 16), dtype=np.int64), np.zeros((6, 8), dtype=np.int64)], axis=1)
    models = [make_llama(), make_llama()]
    plain = compress_model(models[0], get_method(name), short)
    masked = compress_model(models[1], get_method(name), padded, attention_mask=mask)
    assert [layer.tokens for layer in plain.layers] == [layer.tokens for layer in masked.layers]
    assert masked.layer_error == pytest.approx(plain.layer_error, rel=0.02)
    if next(models[0].parameters()).is_cuda:
        return  # there, sums of another length round otherwise, and masks and codes move with their last bits
    for key, weight in weights_of(models[0]).items():
        assert torch.isclose(weight, weights_of(models[1])[key], rtol=1e-3, atol=1e-6).double().mean() > 0.97, key


def test_shared_inputs_are_collected_once(make_llama, tokens, monkeypatch):
    made = []
    plain = Hessian.__init__
    monkeypatch.setattr(Hessian, "__init__", lambda self, *given: made.append(given) or plain(self, *given))
    report = compress_model(make_llama(), get_method("gptq"), tokens)
    assert len(made) == 3 * 4  # q/k/v, o, gate/up, down
    assert len(report.layers) == 3 * 7


def test_collecting_stops_at_the_last_input_and_the_last_block_is_not_propagated(make_llama, tokens):
    model = make_llama()
    ran = dict.fromkeys(range(3), 0)
    for index, block in enumerate(decoder_blocks(model)):
        block.mlp.down_proj.register_forward_hook(lambda *_, i=index: ran.__setitem__(i, ran[i] + 1))
    compress_model(model, get_method("gptq"), tokens, batch_size=6)
    assert ran == {0: 1, 1: 1, 2: 0}  # only the second pass runs down_proj
