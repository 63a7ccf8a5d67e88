from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from methods.base import get_method, parse_method
from methods.blockwise import compress_model
from methods.walk.decoder import decoder_blocks
from methods.walk.linears import linears_of


def weights_of(model):
    return {f"{i}.{t.name}": t.weight.clone() for i, b in enumerate(decoder_blocks(model)) for t in linears_of(b)}


def test_scope_that_fits_nothing_is_refused(make_llama, tokens):
    with pytest.raises(SettingsError, match=r"linears: 'attn\.\*' matches no linear .*self_attn.q_proj"):
        compress_model(make_llama(), get_method("gptq", linears=["attn.*"]), tokens)
    with pytest.raises(SettingsError, match="skip_blocks: expected -3 to 2, got 7"):
        compress_model(make_llama(), get_method("gptq", skip_blocks=[7]), tokens)


def test_group_size_that_does_not_divide_is_refused_before_any_change(make_llama, tokens):
    model, dense = make_llama(), weights_of(make_llama())
    with pytest.raises(
        SettingsError, match=r"group_size: 64 does not divide the 32 inputs of block 0 self_attn.q_proj"
    ):
        compress_model(model, get_method("rtn", group_size=64), None)
    assert all(torch.equal(dense[name], weight) for name, weight in weights_of(model).items())


def test_groups_that_do_not_divide_a_rank_are_refused(make_llama, tokens):
    method = parse_method([{"method": "svd", "ratio": 0.6}, {"method": "rtn", "group_size": 16}], "m")
    with pytest.raises(
        SettingsError, match=r"group_size: 16 does not divide the 9 inputs of block 0 self_attn.q_proj.1"
    ):
        compress_model(make_llama(), method, None)


def test_a_model_without_its_weights_on_one_device_is_refused(make_llama, tokens):
    for block in decoder_blocks(away := make_llama())[1:]:
        block.to("meta")
    with pytest.raises(SettingsError, match=r"model: its weights are on c\S+ and meta; load it on one device"):
        compress_model(away, get_method("rtn"))
    with pytest.raises(SettingsError, match="model: its weights are on meta"):
        compress_model(make_llama().to("meta"), get_method("wanda"), tokens)


def test_a_quantized_model_is_refused(make_llama):
    model = make_llama()
    linear = decoder_blocks(model)[1].mlp.up_proj
    linear.weight = torch.nn.Parameter((1000 * linear.weight).to(torch.int8), requires_grad=False)
    with pytest.raises(SettingsError, match=r"block 1 mlp\.up_proj: its weight is int8; load the model unquantized"):
        compress_model(model, get_method("rtn"))
