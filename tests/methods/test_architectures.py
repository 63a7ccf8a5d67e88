"""Tiny random models of many architectures, built from their config classes, through every method."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from calib.settings import SettingsError
from methods.base import METHODS, CompressionError, get_method, parse_method
from methods.blockwise import compress_model
from methods.walk.batches import Data, capture
from methods.walk.decoder import decoder_blocks
from methods.walk.job import NO_TOKENS
from methods.walk.linears import linears_of

BASE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
PLAIN = {key: value for key, value in BASE.items() if key != "num_key_value_heads"}
SLIDING = {"head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
IDS = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", BASE),
    "mistral": ("MistralConfig", {**BASE, "sliding_window": 8}),
    "qwen2": ("Qwen2Config", BASE),
    "qwen3": ("Qwen3Config", {**BASE, "head_dim": 8}),
    "gemma2": ("Gemma2Config", {**BASE, **SLIDING}),
    "gemma3": ("Gemma3TextConfig", {**BASE, **SLIDING}),
    "phi3": ("Phi3Config", BASE),
    "opt": (
        "OPTConfig",
        {**IDS, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
        | {"max_position_embeddings": 64, "word_embed_proj_dim": 16},
    ),
    "gpt_neox": ("GPTNeoXConfig", PLAIN),
    "falcon": ("FalconConfig", {**IDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "gpt2": ("GPT2Config", {**IDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "olmo2": ("Olmo2Config", BASE),
    "mixtral": ("MixtralConfig", {**BASE, "num_local_experts": 4}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {**BASE, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
}
CALLS: dict[str, dict[str, Any]] = {  # the settings that a tiny model needs; every registered method is run
    "rtn": {"group_size": 16},
    "gptq": {"group_size": 16, "act_order": True},
    "awq": {"group_size": 16, "scale_steps": 3},
    "hqq": {"group_size": 16},
    "svd": {"ratio": 0.6},
    "joint_svd": {"ratio": 0.6},
    "asvd": {"ratio": 0.6},
    "svd_llm": {"ratio": 0.6},
    "fwsvd": {"ratio": 0.6},
}
WITHOUT_SCALES = {  # post-norm blocks and fused projections: nothing to fold a scale into
    "smoothquant": {"olmo2"},
}


OF_ANOTHER_STREAM = {  # their residual stream is not known
    "rotation": {"gemma2", "gemma3", "phi3", "opt", "gpt_neox", "falcon", "gpt2", "olmo2"},
}
SAME_FUNCTION = ("smoothquant", "rotation")


def build(name: str, **changes: Any) -> Any:
    import transformers

    config, settings = MODELS[name]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**{**settings, **changes}))
    with torch.no_grad():  # norms and biases that differ from their start, so that a wrong fold shows
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(3, 96, size=(4, 24), dtype=np.int32)


@pytest.mark.parametrize("name", MODELS)
def test_blocks_one_by_one_compute_what_the_model_computes(name, tokens):
    model = build(name)
    blocks = decoder_blocks(model)
    seen = []
    handle = blocks[-1].register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        model(torch.as_tensor(tokens).long(), use_cache=False)
        handle.remove()
        batches = capture(model, blocks, Data(tokens, batch_size=3))
        for index, block in enumerate(blocks):
            for batch in range(len(batches)):
                batches.keep(batch, batches.run(block, index, batch))
    assert torch.allclose(torch.cat(batches.hidden), seen[0], atol=1e-5)


def test_model_whose_decoder_is_its_head_is_walked_as_well(tokens):
    import transformers

    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    model = transformers.ModernBertDecoderForCausalLM(transformers.ModernBertDecoderConfig(**{**PLAIN, **ids})).eval()
    assert isinstance(model.get_decoder(), torch.nn.Linear)
    report = compress_model(model, parse_method({"method": "wanda", "sparsity": 0.5}, "m"), tokens)
    assert {layer.block for layer in report.layers} == {0, 1}


@pytest.mark.parametrize("layers", [1, 3, 5])
def test_blocks_that_return_tuples_are_recognised_at_any_depth(layers, tokens):
    # a tensor taken for a tuple loses a dimension a block; three blocks made a scalar of it, without an IndexError
    model = build("falcon", num_hidden_layers=layers)
    with torch.no_grad():
        batches = capture(model, decoder_blocks(model), Data(tokens, batch_size=3))
    assert [hidden.shape for hidden in batches.hidden] == [(3, 24, 32), (1, 24, 32)]
    assert len(batches.arguments[0]) == layers


@pytest.mark.parametrize("method_name", METHODS.names())
@pytest.mark.parametrize("name", MODELS)
def test_every_method_runs_on_every_architecture(name, method_name, tokens):
    model = build(name)
    method = get_method(method_name, **CALLS.get(method_name, {}))
    if name in WITHOUT_SCALES.get(method_name, set()):
        with pytest.raises(CompressionError, match=r"block 0 .*there is none"):
            compress_model(model, method, tokens)
        return
    if name in OF_ANOTHER_STREAM.get(method_name, set()):
        with pytest.raises(SettingsError, match=r"residual stream of \w+ is not known"):
            compress_model(model, method, tokens)
        return
    linears = [linear.name for block in decoder_blocks(model) for linear in linears_of(block)]
    batch = torch.as_tensor(tokens).long()
    with torch.no_grad():
        dense = model(batch).logits
        report = compress_model(model, method, tokens)
        logits = model(batch).logits
    assert [layer.linear for layer in report.layers] == linears
    assert torch.isfinite(logits).all()
    if method_name in SAME_FUNCTION:
        assert torch.allclose(logits, dense, atol=2e-4)
    else:
        assert not torch.equal(logits, dense)
    assert report.layer_error < 0.5
    assert not any(layer.fallback == NO_TOKENS for layer in report.layers)
    expected = method.nominal()["sparsity"]
    if expected is not None:
        assert report.achieved_sparsity == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt2", "phi3"])
def test_true_sequential_reaches_every_linear(name, tokens):
    model = build(name)
    linears = [linear.name for block in decoder_blocks(model) for linear in linears_of(block)]
    report = compress_model(model, get_method("gptq", true_sequential=True), tokens)
    assert sorted(layer.linear for layer in report.layers) == sorted(linears)
    assert all(layer.tokens for layer in report.layers)


def only_first_experts(model: Any) -> Any:
    """Routers that always choose experts 0 and 1."""
    for block in decoder_blocks(model):
        block.mlp.gate.weight.data[:2] = block.mlp.gate.weight.data[:1] * 0
        block.mlp.gate.weight.data[2:] = -1e4 * torch.ones_like(block.mlp.gate.weight[2:])
        block.post_attention_layernorm.weight.data.abs_()
        block.mlp.gate.register_forward_pre_hook(lambda _, arguments: (arguments[0].abs(),))
    return model


@pytest.mark.parametrize("method", ["gptq", "wanda", "awq"])
@pytest.mark.parametrize("true_sequential", [False, True])
def test_experts_that_see_no_token_are_recorded_and_left_dense(method, true_sequential, tokens):
    model, dense = only_first_experts(build("qwen3_moe")), build("qwen3_moe")
    settings = {"true_sequential": true_sequential} | CALLS.get(method, {})
    report = compress_model(model, get_method(method, **settings), tokens)
    by_name = {(layer.block, layer.linear): layer for layer in report.layers}
    unseen = by_name[0, "mlp.experts.gate_up_proj.3"]
    assert unseen.fallback == NO_TOKENS
    assert (unseen.tokens, unseen.bits, unseen.relative_error) == (0, 16, 0)
    assert report.fallbacks == 2 * 2 * 2
    seen, before = decoder_blocks(model)[0].mlp.experts, decoder_blocks(dense)[0].mlp.experts
    assert torch.equal(seen.down_proj[3], before.down_proj[3])
    assert not torch.equal(seen.down_proj[0], before.down_proj[0])
    assert by_name[0, "mlp.experts.down_proj.0"].tokens == 4 * 24


def test_tokens_of_every_expert_add_up(tokens):
    report = compress_model(build("mixtral"), get_method("wanda"), tokens)
    counts = [x.tokens for x in report.layers if x.block == 0 and "gate_up" in x.linear]
    assert sum(counts) == 2 * 4 * 24  # two experts for each token


@pytest.mark.parametrize("batch_size", [1, 4])
def test_experts_reached_only_by_later_batches_are_collected(batch_size, tokens):
    report = compress_model(build("qwen3_moe"), get_method("gptq", true_sequential=True), tokens, batch_size=batch_size)
    counts = [x.tokens for x in report.layers if x.block == 0 and "gate_up" in x.linear]
    assert sum(counts) == 2 * 4 * 24


def test_padding_never_reaches_the_experts(tokens):
    mask = np.ones_like(tokens)
    mask[:, 16:] = 0
    report = compress_model(build("mixtral"), get_method("gptq"), tokens, attention_mask=mask)
    counts = [x.tokens for x in report.layers if x.block == 0 and "gate_up" in x.linear]
    assert sum(counts) == 2 * 4 * 16


EXPERTS_OUT_OF_REACH = {  # multiplied from the left, and stored so; or in a class of their own
    "gpt_oss": ("GptOssConfig", {**BASE, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "llama4": (
        "Llama4TextConfig",
        {**BASE, "head_dim": 8, "num_local_experts": 4, "intermediate_size_mlp": 64, "interleave_moe_layer_step": 1},
    ),
    "jetmoe": ("JetMoeConfig", {**BASE, "num_local_experts": 4, "num_experts_per_tok": 2, "kv_channels": 8}),
}
EXPERT_PATTERNS = {"gpt_oss": ["!*experts*"], "llama4": ["!*experts*"], "jetmoe": ["!mlp*", "!*experts*"]}


@pytest.mark.parametrize("name", EXPERTS_OUT_OF_REACH)
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_experts_in_a_layout_of_their_own_are_refused_or_left_out_by_name(name, method, tokens, monkeypatch):
    monkeypatch.setitem(MODELS, name, EXPERTS_OUT_OF_REACH[name])
    model, dense = build(name), build(name)
    with pytest.raises(SettingsError, match=r'block 0 \S+: \w+ holds .*not supported .*linears: \["\*", "!'):
        compress_model(model, get_method(method), tokens)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), dense.parameters(), strict=True))
    report = compress_model(model, get_method(method, linears=["*", *EXPERT_PATTERNS[name]]), tokens)
    assert report.layers
    assert not any("experts" in layer.linear for layer in report.layers)


NOT_WALKED = {
    "bamba": ("BambaConfig", {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "attn_layer_indices": [1]}),
    "gemma3n": (
        "Gemma3nTextConfig",  # four streams of hidden states
        {**SLIDING, "num_kv_shared_layers": 0, "vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8}
        | {"activation_sparsity_pattern": None, "laurel_rank": 4},
    ),
}


@pytest.mark.parametrize("name", NOT_WALKED)
def test_blocks_that_pass_on_more_than_hidden_states_are_refused(name, tokens, monkeypatch):
    config, more = NOT_WALKED[name]
    monkeypatch.setitem(MODELS, name, (config, {**BASE, **more}))
    with pytest.raises(SettingsError, match=f"(?i){name}ForCausalLM cannot be walked block by block"):
        compress_model(build(name), get_method("wanda"), tokens)


def test_linears_outside_the_blocks_are_untouched(tokens):
    model, dense = build("opt"), build("opt")
    compress_model(model, get_method("rtn", bits=2), None)
    inner, before = model.model.decoder, dense.model.decoder
    assert torch.equal(inner.project_in.weight, before.project_in.weight)
    assert torch.equal(inner.project_out.weight, before.project_out.weight)
    assert torch.equal(inner.embed_positions.weight, before.embed_positions.weight)


@pytest.mark.parametrize("name", ["gpt2", "opt", "gpt_neox"])
def test_biases_stay_and_take_part_in_folds(name, tokens):
    model, dense = build(name), build(name)
    compress_model(model, parse_method(["smoothquant", {"method": "gptq", "bits": 8}], "m"), tokens)
    batch = torch.as_tensor(tokens).long()
    with torch.no_grad():
        assert torch.allclose(model(batch).logits, dense(batch).logits, atol=0.05)


def test_models_print_no_warnings_here():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build("llama")
