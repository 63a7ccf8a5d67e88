"""The residual stream of a LLaMA-like decoder: which parameters read it, which write to it, and how to turn it.

Every block adds to the stream what its attention and its MLP make of the normed stream, and an RMS norm looks at the
length of a vector alone. So all vectors of the stream may be turned by one orthogonal R, if norms' weights move into
the matrices behind them: readers become W diag(g) Rᵀ, writers R W, and the model computes what it did. Where a matrix
stands is known by its name, for a few classes of transformers; a block with any other parameter is refused, as one
matrix that is not turned makes noise of the model. The hard case is a tied head: it reads the final norm's output, the
embedding has none, so the two become different matrices.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from calib.settings import SettingsError
from methods.lazy import torch
from methods.numerics.hadamard import Rotation
from methods.walk.decoder import decoder_blocks

CLASSES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "MixtralForCausalLM",
    "Qwen3MoeForCausalLM",
)  # of transformers; tests/methods/test_rotation.py turns each of them
ATTENTION_NORM, MLP_NORM = "input_layernorm", "post_attention_layernorm"
OUTSIDE = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
VALUES = "self_attn.v_proj"
OUTPUTS = "self_attn.o_proj"
ROUTER = "mlp.gate"
_READS = {
    re.compile(r"self_attn\.[qkv]_proj"): ATTENTION_NORM,
    re.compile(r"mlp\.(gate_proj|up_proj|gate|experts\.gate_up_proj)"): MLP_NORM,
}
_WRITES = re.compile(r"self_attn\.o_proj|mlp\.down_proj|mlp\.experts\.down_proj")
_BESIDE = re.compile(
    r"(self_attn\.[qkv]_proj|mlp\.(gate|up)_proj)\.bias|self_attn\.[qk]_norm\.weight"
    rf"|({ATTENTION_NORM}|{MLP_NORM})\.weight"
)  # parameters that the stream does not meet, and norms of it


def norm_before(linear: str) -> str | None:
    """The norm whose output the linear or router of this name in a block reads; None where it reads none."""
    return next((norm for pattern, norm in _READS.items() if pattern.fullmatch(linear)), None)


def writes(linear: str) -> bool:
    """Whether what the linear of this name in a block gives is added to the stream."""
    return _WRITES.fullmatch(linear) is not None


def check_stream(model: torch.nn.Module) -> None:
    """Raise SettingsError unless it is known of every parameter of `model` where it stands."""
    kind = type(model)
    if kind.__name__ not in CLASSES or not kind.__module__.startswith("transformers.models."):
        raise SettingsError(f"the residual stream of {kind.__name__} is not known, only of {', '.join(CLASSES)}")
    blocks = decoder_blocks(model)
    inside = {id(parameter) for parameter in blocks.parameters()}
    unknown = [name for name, p in model.named_parameters() if id(p) not in inside and name not in OUTSIDE]
    for index, block in enumerate(blocks):
        unknown += [f"{name} of block {index}" for name, _ in block.named_parameters() if not _known(name)]
    if unknown:
        raise SettingsError(f"{unknown[0]} is no part of {kind.__name__} as it is known here")


def _known(parameter: str) -> bool:
    linear = re.sub(r"\.(weight|bias)$", "", parameter)
    weight = not parameter.endswith(".bias")
    return bool(_BESIDE.fullmatch(parameter)) or writes(linear) or (weight and norm_before(linear) is not None)


def turn_outside(model: Any, stream: Rotation) -> None:
    """Turn embedding and head, in place; the final norm's weights move into the head, which is untied before."""
    embedding, head, norm = model.get_input_embeddings(), model.get_output_embeddings(), model.get_decoder().norm
    if head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(embedding.weight.detach().clone(), requires_grad=head.weight.requires_grad)
        _say_untied(model)
    turn_readers(embedding.weight, stream)
    turn_readers(head.weight, stream, norm.weight)
    norm.weight.detach().fill_(1.0)


def turn_readers(weight: torch.Tensor, stream: Rotation, gain: torch.Tensor | None = None) -> None:
    """`weight` [rows, width] becomes W diag(`gain`) Rᵀ in place, some rows at a time: a vocabulary is large."""
    for part in weight.detach().split(max(1, (1 << 24) // stream.width)):
        wide = part.double()
        part.copy_(stream.rows(wide if gain is None else wide * gain.detach().double()))


def _say_untied(model: Any) -> None:
    """Let saving and loading know that the head has numbers of its own.

    Modules share the configuration. They get another one rather than another value in it, so that whoever gives the
    modules back as they were gives that back as well.
    """
    before = model.config
    config = copy.deepcopy(before)
    config.tie_word_embeddings = False
    for module in model.modules():
        if vars(module).get("config") is before:
            module.config = config
    model.all_tied_weights_keys = {}
