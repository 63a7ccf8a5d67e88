from __future__ import annotations

import pytest
import torch

from methods.base import get_method, parse_method
from methods.blockwise import compress_model
from methods.inputs.collect import collect
from methods.inputs.telemetry import measured
from methods.outcome import CompressionError
from methods.walk import job
from methods.walk.decoder import decoder_blocks
from methods.walk.linears import linears_of


def inputs_of(model, tokens, block, name):
    """Inputs [windows, length, cols] of one linear, by a plain hook and one full forward per window."""
    seen = []
    handle = decoder_blocks(model)[block].get_submodule(name).register_forward_pre_hook(lambda _, a: seen.append(a[0]))
    with torch.no_grad():
        for window in tokens:
            model(torch.as_tensor(window[None], device=model.device).long())
    handle.remove()
    return torch.cat(seen)


def weights_of(model):
    return {f"{i}.{t.name}": t.weight.clone() for i, b in enumerate(decoder_blocks(model)) for t in linears_of(b)}


def test_true_sequential_sees_the_compressed_linears_before_it(make_llama, tokens):
    model = make_llama(num_hidden_layers=1)
    compress_model(model, get_method("gptq", bits=2, true_sequential=True), tokens)
    plain = make_llama(num_hidden_layers=1)
    method = get_method("gptq", bits=2)
    groups = [
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["self_attn.o_proj"],
        ["mlp.gate_proj", "mlp.up_proj"],
        ["mlp.down_proj"],
    ]
    linears = {t.name: t for t in linears_of(decoder_blocks(plain)[0])}
    with torch.no_grad():
        for names in groups:
            statistic = collect(method, inputs_of(plain, tokens, 0, names[0]), linears[names[0]].weight)
            for name in names:
                linears[name].store(method.compress_weight(linears[name].weight.clone(), statistic).weight)
    for name, weight in weights_of(model).items():
        assert torch.isclose(weight, weights_of(plain)[name], rtol=1e-3, atol=1e-6).double().mean() > 0.97, name


def test_telemetry_is_read_once_for_linears_that_share_an_input(make_llama, tokens, monkeypatch):
    read = []
    monkeypatch.setattr(
        job, "measured", lambda replaced, *more: read.append(len(replaced)) or measured(replaced, *more)
    )
    compress_model(make_llama(num_hidden_layers=1), get_method("spqr"), tokens)
    assert read == [3, 1, 2, 1]


def test_failure_names_block_and_linear(make_llama, tokens):
    model = make_llama()
    decoder_blocks(model)[1].mlp.up_proj.weight.data[0] = float("inf")
    with pytest.raises(
        CompressionError, match=r"block 1 mlp.down_proj: GPTQ 4-bit on mlp.down_proj: its inputs hold NaN or infinity"
    ):
        compress_model(model, get_method("gptq", linears=["mlp.down_proj"]), tokens)


def test_raised_damping_is_in_the_report_of_every_linear_that_needed_it(make_llama, tokens):
    """One window of few tokens leaves the Hessian singular; without damping its factorization must be helped."""
    report = compress_model(make_llama(), get_method("gptq", percdamp=0.0), tokens[:1, :8])
    helped = [layer for layer in report.layers if layer.fallback]
    assert len(helped) == report.fallbacks > 0
    assert all(layer.retries >= 1 and layer.damping >= 1e-3 for layer in helped)
    assert all("damping raised to" in layer.fallback for layer in helped)


def test_one_short_window_is_enough_for_the_default_damping(make_llama, tokens):
    report = compress_model(make_llama(), get_method("sparsegpt"), tokens[:1, :8])
    assert report.fallbacks == 0
    assert all(layer.damping == 0.01 for layer in report.layers)


@pytest.mark.parametrize(
    "entry",
    [
        {"method": "rtn", "group_size": 16},
        {"method": "magnitude"},
        {"method": "gptq", "group_size": 16},
        {"method": "awq", "group_size": 16},
        {"method": "smoothquant"},
        {"method": "fwsvd"},
        {"method": "wanda", "allocation": "owl"},
    ],
    ids=str,
)
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_weight_that_is_no_number_fails_by_name_before_it_spoils_the_inputs_of_others(
    make_llama, tokens, entry, value
):
    model = make_llama()
    decoder_blocks(model)[1].self_attn.v_proj.weight.data[3, 5] = float(value)
    with pytest.raises(CompressionError, match=r"^block 1 self_attn\.v_proj: the dense weight holds NaN or infinity"):
        compress_model(model, parse_method(entry, "m"), tokens)
