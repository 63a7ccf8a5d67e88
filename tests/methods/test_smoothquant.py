from __future__ import annotations

import pytest
import torch

from methods.base import get_method, parse_method
from methods.blockwise import compress_model
from methods.outcome import CompressionError
from methods.walk.decoder import decoder_blocks


def test_smoothing_changes_weights_but_not_what_the_model_computes(make_llama, tokens, device):
    model, dense = make_llama(), make_llama()
    report = compress_model(model, get_method("smoothquant"), tokens)
    batch = torch.as_tensor(tokens, device=device).long()
    with torch.no_grad():
        assert torch.allclose(model(batch).logits, dense(batch).logits, atol=1e-5)
    assert not torch.allclose(
        decoder_blocks(model)[0].mlp.up_proj.weight, decoder_blocks(dense)[0].mlp.up_proj.weight, rtol=0.01
    )
    assert report.average_bits == 16
    assert report.layer_error < 1e-8


def test_smoothing_balances_inputs_and_weights(make_llama, tokens):
    method = get_method("smoothquant", alpha=0.5)
    largest, weight = torch.tensor([1.0, 100.0, 0.0]), torch.tensor([[1.0, -0.5, 2.0], [0.25, 1.0, 1.0]])
    scale = method.scales(largest, [weight])
    assert torch.allclose(scale, torch.tensor([1.0, 10.0, 1.0]))
    assert torch.allclose((largest / scale)[:2], (weight * scale).abs().amax(0)[:2])


def test_smooth_then_quantize_is_one_entry(make_llama, tokens):
    method = parse_method(["smoothquant", {"method": "gptq", "bits": 4, "scale_dtype": "float16"}], "m")
    report = compress_model(make_llama(), method, tokens)
    assert report.average_bits < 5
    assert {layer.step for layer in report.layers} == {0, 1}


def test_a_model_without_a_place_for_scales_is_refused(make_llama, tokens):
    with pytest.raises(CompressionError, match=r"block 0 .*there is none"):
        compress_model(make_llama(), get_method("smoothquant", linears=["mlp.down_proj"]), tokens)
