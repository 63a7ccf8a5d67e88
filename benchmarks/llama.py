"""The model that GPU benchmarks compress: LLaMA-7B's width, random bfloat16 weights, as many blocks as asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

WIDTH, INNER, HEADS, VOCABULARY, BLOCKS_7B = 4096, 11008, 32, 32000, 32


def make_model(blocks: int) -> Any:
    """A LLaMA with random bfloat16 weights of the 7B width, on the GPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=blocks,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=2048,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        return LlamaForCausalLM(config).to(torch.bfloat16).eval().requires_grad_(False)


def keep_weights(model: Any) -> Callable[[], None]:
    """A function that gives the weights back as they are now, and linears that became two factors as well."""
    modules = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def restore() -> None:
        for name, module in modules.items():
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, module)
        current = model.state_dict()
        for name, tensor in kept.items():
            current[name].copy_(tensor)

    return restore


def random_tokens(nsamples: int, seqlen: int) -> torch.Tensor:
    """[nsamples, seqlen], the same in every run."""
    return torch.randint(0, VOCABULARY, (nsamples, seqlen), generator=torch.Generator().manual_seed(0))
