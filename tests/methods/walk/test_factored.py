"""A compressed model that is saved and loaded again computes the same, or it is not saved."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from methods.base import METHODS, get_method, parse_method
from methods.blockwise import compress_model, decoder_blocks
from methods.walk.factored import SavingError, factored, merge_factors

CALLS = {"awq": {"group_size": 16, "scale_steps": 3}, "hqq": {"group_size": 16}}
LOW_RANK = [name for name in METHODS.names() if METHODS.get(name)().factor_rank(32, 32, 32) is not None]
OTHERS = [name for name in METHODS.names() if name not in LOW_RANK]


def logits(model):
    tokens = torch.arange(40).reshape(2, 20) % 96
    with torch.no_grad():
        return model(tokens.to(model.device)).logits


def reloaded(model, folder):
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder, dtype=model.dtype).eval().to(model.device)


@pytest.fixture
def make_gpt2(device):
    def make():
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        config = GPT2Config(vocab_size=96, n_positions=64, n_embd=32, n_layer=2, n_head=4)
        return GPT2LMHeadModel(config).eval().to(device)

    return make


@pytest.mark.parametrize("name", OTHERS)
def test_models_without_factors_are_saved_as_they_are(name, make_llama, tokens, tmp_path):
    model = make_llama(tie_word_embeddings=True)
    method = get_method(name, **CALLS.get(name, {}))
    compress_model(model, method, None if method.data_free else tokens)
    assert torch.equal(logits(reloaded(model, tmp_path)), logits(model))


@pytest.mark.parametrize("name", LOW_RANK)
def test_models_with_factors_are_refused_and_saved_once_merged(name, make_llama, tokens, tmp_path):
    model = make_llama(attention_bias=True)
    method = get_method(name, ratio=0.5)
    compress_model(model, method, None if method.data_free else tokens)
    before = logits(model)
    with pytest.raises(SavingError, match=r"21 linears \(model.layers.0.self_attn.q_proj, .*merge_factors\(model\)"):
        model.save_pretrained(tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    assert len(merge_factors(model)) == 21
    assert torch.allclose(logits(model), before, atol=1e-4)
    assert torch.equal(logits(reloaded(model, tmp_path / "merged")), logits(model))


def test_linears_that_are_stored_transposed_are_so_again(make_gpt2, tokens, tmp_path):
    """GPT-2's c_proj is square: transposed, it would load without a word and compute something else."""
    model = make_gpt2()
    compress_model(model, get_method("svd", ratio=0.5), None)
    before, kinds = logits(model), {type(module).__name__ for module in decoder_blocks(make_gpt2())[0].modules()}
    merge_factors(model)
    assert {type(module).__name__ for module in decoder_blocks(model)[0].modules()} == kinds
    assert torch.allclose(logits(model), before, atol=1e-4)
    assert torch.equal(logits(reloaded(model, tmp_path)), logits(model))


@pytest.mark.parametrize("name", ["wanda", "gptq", "svd"])
def test_fused_experts_hold_products_and_are_saved(name, tokens, tmp_path, device):
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    model = MixtralForCausalLM(config).eval().to(device)
    method = get_method(name)
    compress_model(model, method, None if method.data_free else tokens)
    merge_factors(model)
    assert torch.allclose(logits(reloaded(model, tmp_path)), logits(model), atol=1e-6)


def test_factors_of_factors_merge_into_one_linear(make_llama, tokens, tmp_path):
    model = make_llama(num_hidden_layers=1)
    steps = [{"method": "svd", "ratio": 0.9}, {"method": "svd", "ratio": 0.9}, {"method": "rtn", "bits": 8}]
    compress_model(model, parse_method(steps, "m"), None)
    before = logits(model)
    with pytest.raises(SavingError, match="save_pretrained"):
        model.save_pretrained(tmp_path / "refused")
    merge_factors(model)
    assert factored(model) == []
    assert torch.allclose(logits(model), before, atol=1e-4)
    assert torch.equal(logits(reloaded(model, tmp_path / "merged")), logits(model))


def test_half_precision_and_frozen_weights_are_kept_by_merging(make_llama):
    model = make_llama(num_hidden_layers=1).bfloat16().requires_grad_(False)
    compress_model(model, get_method("svd"), None)
    merge_factors(model)
    kept = {(parameter.dtype, parameter.requires_grad) for parameter in model.parameters()}
    assert kept == {(torch.bfloat16, False)}
    assert not any(module.training for module in model.modules())


def test_a_walk_that_fails_half_way_leaves_no_model_that_saves_wrongly(make_llama, tmp_path):
    model = make_llama()
    decoder_blocks(model)[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(Exception, match="block 1"):
        compress_model(model, get_method("svd"), None)
    with pytest.raises(SavingError, match="linears"):
        model.save_pretrained(tmp_path)


def test_copies_of_a_model_are_refused_as_well_and_stay_themselves(make_llama, tmp_path):
    model = make_llama(num_hidden_layers=1)
    compress_model(model, get_method("svd"), None)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    others = [copy.deepcopy(model), torch.load(file, weights_only=False)]
    merge_factors(model)
    for other in others:
        with pytest.raises(SavingError, match="linears"):
            other.save_pretrained(tmp_path / "other")
    model.save_pretrained(tmp_path / "merged")


def test_weights_given_by_the_caller_are_saved(make_llama, tmp_path):
    model, dense = make_llama(), make_llama()
    compress_model(model, get_method("svd"), None)
    model.save_pretrained(tmp_path, state_dict=dense.state_dict())
    loaded = type(model).from_pretrained(tmp_path).to(dense.device)
    assert torch.equal(logits(loaded), logits(dense))
