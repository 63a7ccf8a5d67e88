"""Kernels in place of a decoder's norms, activations and rotations: the same numbers, and no trace left behind."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
import transformers

from methods.numerics.backend import has_triton
from methods.walk import fused as fusing
from methods.walk.fused import fused

INTERPRETED = has_triton() and os.environ.get("TRITON_INTERPRET") == "1"
needs_kernels = pytest.mark.skipif(
    not (torch.cuda.is_available() or INTERPRETED), reason="needs a CUDA device, or Triton's interpreter"
)
if has_triton():
    from methods.kernels.elementwise import gated, rms_norm, rotate
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter truncates bfloat16
SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
FUSED_PARTS = {  # norms and gated MLPs of two blocks, and what of an architecture agrees with a kernel
    "Llama": (5, 2, {"norm", "gate", "rotary"}),
    "Mistral": (5, 2, {"norm", "gate", "rotary"}),
    "Qwen2": (5, 2, {"norm", "gate", "rotary"}),
    "Qwen3": (9, 2, {"norm", "gate", "rotary"}),
    "Olmo2": (9, 2, {"norm", "gate"}),  # rotates in float32
    "Gemma2": (9, 2, {"norm", "gate", "rotary"}),
    "Phi3": (5, 2, {"norm", "gate", "rotary"}),
    "OPT": (0, 0, set()),
    "GPTNeoX": (0, 0, set()),
}


def tiny(name, dtype=DTYPE):
    torch.manual_seed(0)
    more = {"Gemma2": {"head_dim": 8}, "Qwen3": {"head_dim": 8}, "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32}}
    config = getattr(transformers, f"{name}Config")(**SMALL, **more.get(name, {}))
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.to(DEVICE, dtype).eval()


def tokens():
    return torch.randint(1, 96, (2, 24), generator=torch.Generator().manual_seed(1)).to(DEVICE)


def swapped(model):
    return [m for m in model.modules() if "forward" in vars(m)]


@pytest.fixture
def verdicts(monkeypatch):
    """What agreed with its kernel: norm, gate, rotary."""
    found = {}
    monkeypatch.setattr(fusing, "agreed", found)

    def agreed():
        parts = set()
        for (what, *_), verdict in found.items():
            part = "gate" if isinstance(what, str) else "norm" if "Norm" in what.__name__ else "rotary"
            if "MLP" not in getattr(what, "__name__", "") and verdict not in (None, False):
                parts.add(part)
        return parts

    return agreed


@needs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize("name", FUSED_PARTS)
def test_a_fused_model_gives_the_models_logits(name, verdicts):
    model = tiny(name)
    norms, gates, agreed = FUSED_PARTS[name]
    with torch.inference_mode():
        wanted = model(tokens()).logits.float()
        with fused(model, force=True):
            found = model(tokens()).logits.float()
            of_norms = sum("RMSNorm" in type(m).__name__ for m in swapped(model))
            assert (of_norms, len(swapped(model)) - of_norms) == (norms, gates)
    assert verdicts() == agreed
    rounding = torch.finfo(DTYPE).eps * wanted.abs().max()
    assert (found - wanted).abs().max() <= 4 * rounding
    assert not swapped(model)
    with torch.inference_mode():
        assert torch.equal(model(tokens()).logits.float(), wanted)


OTHER_CALLS = {  # rotary functions of one tensor, norms with a gate
    "GPTJ": ("GPTJConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4}),
    "Gemma4": ("Gemma4TextConfig", {"head_dim": 8, "global_head_dim": 8, "hidden_size_per_layer_input": 0}),
    "Qwen3Next": (
        "Qwen3NextConfig",
        {"head_dim": 8, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2}
        | {"linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_experts": 4}
        | {"num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    ),
}


@needs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize("name", OTHER_CALLS)
def test_calls_with_other_arguments_go_to_the_models_own_code(name, verdicts):
    kind, more = OTHER_CALLS[name]
    if not hasattr(transformers, kind):
        pytest.skip(f"this version of transformers has no {kind}")
    shape = {"vocab_size": 96} if name == "GPTJ" else SMALL
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**shape, **more))
    model = model.to(DEVICE, DTYPE).eval()
    with torch.inference_mode():
        wanted = model(tokens(), use_cache=False).logits.float()
        with fused(model, force=True):
            found = model(tokens(), use_cache=False).logits.float()
    assert (found - wanted).abs().max() <= 16 * torch.finfo(DTYPE).eps * wanted.abs().max()


@needs_kernels
@pytest.mark.gpu
def test_a_verdict_does_not_come_from_the_weights_of_one_model(verdicts):
    """With weights of one, rounding before and after the product are the same; OLMo 2 rounds after it."""
    plain = transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**SMALL)).to(DEVICE, DTYPE).eval()
    with torch.inference_mode(), fused(plain, force=True):
        plain(tokens())
    (verdict,) = [v for (what, *_), v in fusing.agreed.items() if getattr(what, "__name__", "") == "Olmo2RMSNorm"]
    assert verdict == {"offset": 0.0, "late": True}


@needs_kernels
@pytest.mark.gpu
def test_norms_and_gates_of_views_that_are_not_dense():
    generator = torch.Generator().manual_seed(0)
    turned, other = torch.randn(2, 64, 32, generator=generator).to(DEVICE, DTYPE).transpose(1, 2).unbind()
    weight = torch.randn(64, generator=generator).to(DEVICE, DTYPE)
    variant = {"offset": 0.0, "late": True}
    assert torch.equal(
        rms_norm(turned, weight, 1e-5, **variant), rms_norm(turned.contiguous(), weight, 1e-5, **variant)
    )
    assert torch.equal(gated(turned, other, "silu"), gated(turned.contiguous(), other.contiguous(), "silu"))


@needs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize("cols", [8, 128, 1000, 4096])
@pytest.mark.parametrize(("offset", "late"), [(0.0, False), (0.0, True), (1.0, True)])
def test_norm_of_any_width(cols, offset, late):
    generator = torch.Generator().manual_seed(cols)
    wide = torch.randn(33, 2 * cols, generator=generator).to(DEVICE, DTYPE)
    inputs, weight = wide[:, :cols], torch.randn(cols, generator=generator).to(DEVICE, DTYPE)
    normed = inputs.float() * torch.rsqrt(inputs.float().square().mean(-1, keepdim=True) + 1e-5)
    wanted = ((normed if late else normed.to(DTYPE).float()) * (weight.float() + offset)).to(DTYPE)
    found = rms_norm(inputs, weight, 1e-5, offset=offset, late=late)
    assert fusing.agree(found, wanted)


@needs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gate_of_halves_and_of_odd_widths(activation):
    generator = torch.Generator().manual_seed(0)
    functions = {"silu": torch.nn.functional.silu, "gelu_tanh": partial(torch.nn.functional.gelu, approximate="tanh")}
    for cols in (7, 2048, 5000):
        both = (2 * torch.randn(3, 11, 2 * cols, generator=generator)).to(DEVICE, DTYPE)
        gate, up = both.chunk(2, -1)
        assert fusing.agree(gated(gate, up, activation), functions[activation](gate) * up)


@needs_kernels
@pytest.mark.gpu
def test_rotation_keeps_the_layout_of_its_input():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 24, 6, 16, generator=generator).to(DEVICE, DTYPE).transpose(1, 2)
    angles = torch.randn(1, 24, 16, generator=generator)
    cos, sin = angles.cos().to(DEVICE, DTYPE), angles.sin().to(DEVICE, DTYPE)
    turned = torch.cat([-states[..., 8:], states[..., :8]], -1)
    found = rotate(states, cos, sin)
    assert fusing.agree(found, states * cos[:, None] + turned * sin[:, None])
    assert found.stride() == states.stride()


@needs_kernels
@pytest.mark.gpu
def test_linears_that_share_an_input_still_receive_one_tensor():
    model, seen = tiny("Llama"), []
    block = model.model.layers[0]
    handles = [
        part.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        for part in (block.mlp.gate_proj, block.mlp.up_proj)
    ]
    with torch.no_grad(), fused(model, force=True):
        model(tokens())
    assert len(seen) == 2
    assert seen[0] is seen[1]
    for handle in handles:
        handle.remove()


@needs_kernels
@pytest.mark.gpu
def test_gradients_flow_through_the_models_own_code():
    model = tiny("Llama")
    with fused(model, force=True):
        model(tokens()).logits.float().sum().backward()
    assert all(p.grad is not None for p in model.model.layers.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_changes_on_a_processor(dtype):
    model = tiny("Llama", dtype).to("cpu")
    with fused(model):
        assert not swapped(model)


class _Squared(torch.nn.Module):
    """Looks like an RMS norm and is none."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(32))
        self.eps = 1e-6

    def forward(self, inputs):
        return self.weight * inputs * inputs


class ScaledRMSNorm(_Squared):
    """A name and attributes that mislead."""


@needs_kernels
@pytest.mark.gpu
def test_what_only_looks_like_a_norm_keeps_its_own_code():
    module = torch.nn.Sequential(ScaledRMSNorm()).to(DEVICE, DTYPE)
    inputs = torch.randn(16, 32, device=DEVICE, dtype=DTYPE)
    with torch.no_grad(), fused(module, force=True):
        found = module(inputs)
    assert torch.equal(found, inputs * inputs)
