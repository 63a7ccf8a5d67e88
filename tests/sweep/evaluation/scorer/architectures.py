"""Architectures on both sides of every switch that changes with the length, built in memory."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from sweep.evaluation.questions.requests import Requests

VOCABULARY = 400
TURN = 40  # tokens: windows, chunks and original contexts of the models below
LONGEST = 90  # of the requests, as the model gets them
CPU = torch.device("cpu")
IDS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
HEADS = {**LLAMA, "head_dim": 8}
THETA = {"rope_theta": 1e4}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, **THETA}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TURN, **THETA}
LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": TURN,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
    "factor": 4.0,
    **THETA,
}
TWO_KINDS = {"layer_types": ["sliding_attention", "full_attention"]}
SHORT = {"max_position_embeddings": TURN}
PACKED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, dynamic": ("llama", {**LLAMA, **SHORT, "rope_parameters": DYNAMIC}),
    "llama, longrope": ("llama", {**LLAMA, "rope_parameters": LONGROPE}),
    "llama, yarn": ("llama", {**LLAMA, "rope_parameters": YARN}),
    "phi3": ("phi3", {**LLAMA, "original_max_position_embeddings": TURN, "rope_parameters": LONGROPE}),
    "phimoe": (
        "phimoe",
        {**LLAMA, "num_local_experts": 4, "rope_parameters": {**LONGROPE, "short_mscale": 1.1, "long_mscale": 1.4}},
    ),
    "gemma3, dynamic in one kind of layer": (
        "gemma3_text",
        {
            **HEADS,
            **SHORT,
            **TWO_KINDS,
            "sliding_window": 16,
            "rope_parameters": {"full_attention": DYNAMIC, "sliding_attention": {"rope_type": "default", **THETA}},
        },
    ),
    "gpt_neox, dynamic": (
        "gpt_neox",
        {**LLAMA, **SHORT, "rope_parameters": {**DYNAMIC, "partial_rotary_factor": 0.5}},
    ),
    "falcon, dynamic": ("falcon", {**SMALL, **SHORT, "rope_parameters": DYNAMIC}),
    "mistral": ("mistral", {**LLAMA, "sliding_window": TURN}),
    "gemma2": ("gemma2", {**HEADS, "sliding_window": TURN}),
    "cohere2": ("cohere2", {**LLAMA, **TWO_KINDS, "sliding_window": TURN}),
    "gpt_oss": (
        "gpt_oss",
        {**HEADS, "sliding_window": TURN, "num_local_experts": 4, "num_experts_per_tok": 2, "rope_parameters": YARN},
    ),
    "ministral3": ("ministral3", {**HEADS, "rope_parameters": {**YARN, "llama_4_scaling_beta": 0.5}}),
    "gptj": ("gptj", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 128}),
}
PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon, alibi": ("falcon", {**SMALL, "alibi": True}),
    "mpt": ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}),
    "gpt_neo": (
        "gpt_neo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": TURN,
        },
    ),
    "llama4": (
        "llama4_text",
        {
            **HEADS,
            "attention_chunk_size": TURN,
            "floor_scale": TURN,
            "intermediate_size_mlp": 48,
            "num_local_experts": 2,
            "no_rope_layers": [1, 0],
            "moe_layers": [1],
        },
    ),
    "mamba2": (
        "mamba2",
        {**SMALL, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": TURN},
    ),
    "bamba": (
        "bamba",
        {
            **LLAMA,
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": TURN,
            "attn_layer_indices": [1],
        },
    ),
    "rwkv": ("rwkv", {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 128}),
}
EQUAL: dict[str, tuple[str, dict[str, Any]]] = {  # what they compute for a place depends on how many follow
    "xlnet": ("xlnet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
    "doge": ("doge", {**LLAMA, "keep_window_size": TURN}),
}


def build(name: str) -> Any:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    kind, settings = {**PACKED, **PLAIN, **EQUAL}[name]
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    config = CONFIG_MAPPING[kind](**{**IDS, **copy.deepcopy(settings)})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:  # large enough for scores to differ
                parameter.data.normal_(0, 0.25)
    return model


def drawn(rng: np.random.Generator, count: int) -> list[int]:
    return [int(token) for token in rng.integers(3, VOCABULARY, count)]


def logits_alone(fresh: Any, tokens: np.ndarray) -> torch.Tensor:
    """(length, vocabulary) of one sequence, in float64, by a copy of a model that was never called."""
    with torch.no_grad():
        found: torch.Tensor = copy.deepcopy(fresh)(
            input_ids=torch.as_tensor(tokens.astype(np.int64))[None], use_cache=False
        ).logits[0]
    return found.double()


def scores_alone(fresh: Any, requests: Requests) -> np.ndarray:
    found = []
    for number in range(len(requests)):
        tokens, count = requests.sequence(number), int(requests.continuation[number])
        target = torch.as_tensor(tokens[-count:].astype(np.int64))
        logs = logits_alone(fresh, tokens[:-1]).log_softmax(-1)[-count:]
        found.append(logs.gather(1, target[:, None]).sum().item())
    return np.asarray(found)
