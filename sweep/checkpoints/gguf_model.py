"""The model in a GGUF file as transformers names it: config.json, and the tensors under the names of its classes.

llama.cpp writes every LLaMA-like model (LLaMA, Mistral, SmolLM, ...) as the architecture `llama`, and Qwen 2 and 3
under their own names. The hard cases are what it changes on the way: rows of q and k of `llama` stand in another order
(its rotary embedding turns neighbouring pairs, that of transformers the two halves of a head), and the scaled
frequencies of Llama 3.1 and later are a tensor, out of which the configuration must be found again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf, pi
from typing import Any

import numpy as np

from calib.settings import SettingsError, suggestion
from sweep.checkpoints.gguf_file import AGAIN, GgufFile

CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
FREQUENCIES = "rope_freqs.weight"  # (head_dim / 2,): what each rotary frequency is divided by
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def config_of(gguf: GgufFile, place: str) -> dict[str, Any]:
    """The mapping of config.json. Raises SettingsError for a model that is not read here, and for missing metadata."""
    where = f"{place}: {gguf.path}"
    name = _architecture(gguf, where)
    _refuse_splits(gguf, where)
    hidden, heads = _count(gguf, "embedding_length", where), _count(gguf, "attention.head_count", where)
    head_dim = _count(gguf, "attention.key_length", where, hidden // heads)
    if _count(gguf, "attention.value_length", where, head_dim) != head_dim:
        raise SettingsError(f"{where}: keys and values have different lengths, which transformers' {name} has not")
    if head_dim % 2 or _count(gguf, "rope.dimension_count", where, head_dim) != head_dim:
        raise SettingsError(f"{where}: positions turn a part of a head's {head_dim} numbers, and in transformers all")
    window = None
    if name == "llama" and gguf.fields.get(f"{name}.attention.sliding_window"):
        window = _count(gguf, "attention.sliding_window", where)
    config = {
        "architectures": ["MistralForCausalLM" if window else CLASSES[name]],
        "model_type": "mistral" if window else name,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": _count(gguf, "feed_forward_length", where),
        "num_hidden_layers": _count(gguf, "block_count", where),
        "num_attention_heads": heads,
        "num_key_value_heads": _count(gguf, "attention.head_count_kv", where, heads),
        "head_dim": head_dim,
        "max_position_embeddings": _count(gguf, "context_length", where),
        "rms_norm_eps": _shortest(gguf.fields.get(f"{name}.attention.layer_norm_rms_epsilon"), where),
        "rope_theta": _positive(gguf, "rope.freq_base", where, 10000.0),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "vocab_size": _rows(gguf, where),
        "dtype": dtype_of(gguf),
    }
    if window:
        config["sliding_window"] = window
    if name == "llama" and "blk.0.attn_q.bias" in gguf.tensors:
        config["attention_bias"] = True
    if scaling := _scaling(gguf, config, where):
        config["rope_scaling"] = scaling
    for key in ("bos", "eos", "padding"):
        config[f"{key.replace('padding', 'pad')}_token_id"] = gguf.fields.get(f"tokenizer.ggml.{key}_token_id")
    _check_tensors(gguf, config, where)
    return config


def dtype_of(gguf: GgufFile) -> str:
    """float16 or bfloat16 where all matrices are, else float32, which holds what quantized weights stand for."""
    kinds = {tensor.quantization for tensor in gguf.tensors.values() if len(tensor.shape) == 2}
    return {"F16": "float16", "BF16": "bfloat16"}.get(kinds.pop(), "float32") if len(kinds) == 1 else "float32"


def names_of(gguf: GgufFile) -> dict[str, str]:
    """Names of the tensors in the file by those in the model; frequencies are no tensor of the model."""
    return {_name(name): name for name in gguf.tensors if name != FREQUENCIES}


def shapes_of(gguf: GgufFile) -> dict[str, tuple[int, ...]]:
    """The shapes of the model's tensors by their names."""
    return {name: gguf.tensors[own].shape for name, own in names_of(gguf).items()}


def rotary_heads(config: Mapping[str, Any], gguf_name: str) -> int | None:
    """The number of heads whose rows llama.cpp has reordered in this tensor of the file; None: it did not."""
    match = _BLOCK.fullmatch(gguf_name)
    if match is None or config["model_type"] not in ("llama", "mistral"):
        return None
    return {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(match.group(2))


def halves_of_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k in the order of transformers: of each head the first of all pairs, then the second.

    `weight` is (heads * head_dim, ...) as llama.cpp's converter has permuted it.
    """
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _name(name: str) -> str:
    if match := _BLOCK.fullmatch(name):
        block, part, kind = match.groups()
        return f"model.layers.{block}.{_PARTS.get(part, part)}.{kind}"
    part, _, kind = name.rpartition(".")
    return f"{_TOP.get(part, part)}.{kind}"


def _architecture(gguf: GgufFile, where: str) -> str:
    name = gguf.fields.get("general.architecture")
    known = ", ".join(CLASSES)
    if not isinstance(name, str):
        raise SettingsError(f"{where} names no architecture (general.architecture); expected one of {known}")
    if name not in CLASSES:
        near = suggestion(name, CLASSES)
        hint = near if near.startswith(", did you mean") else ""
        raise SettingsError(
            f"{where}: the architecture '{name}' is not read from GGUF{hint} (those of {known} are); give the model in "
            "the form of transformers"
        )
    if gguf.fields.get(f"{name}.expert_count"):
        raise SettingsError(f"{where}: mixtures of experts are not read from GGUF; give the form of transformers")
    return name


def _refuse_splits(gguf: GgufFile, where: str) -> None:
    count = gguf.fields.get("split.count", 1)
    if not isinstance(count, int) or count > 1:
        raise SettingsError(f"{where} is one part of {count} (split.count); merge them with llama-gguf-split --merge")


def _count(gguf: GgufFile, key: str, where: str, default: int | None = None) -> int:
    full = f"{gguf.fields['general.architecture']}.{key}"
    value = gguf.fields.get(full, default)
    if not isinstance(value, int) or value < 1:
        raise SettingsError(f"{where}: {full} is {value!r}, expected a whole number of at least 1; {AGAIN}")
    return value


def _positive(gguf: GgufFile, key: str, where: str, default: float) -> float:
    full = f"{gguf.fields['general.architecture']}.{key}"
    value = gguf.fields.get(full, default)
    if not isinstance(value, int | float) or not 0 < value < inf:
        raise SettingsError(f"{where}: {full} is {value!r}, expected a number above 0; {AGAIN}")
    return float(value)


def _rows(gguf: GgufFile, where: str) -> int:
    if "token_embd.weight" not in gguf.tensors:
        raise SettingsError(f"{where} lacks token_embd.weight (a vocabulary alone?); give the file of a model")
    return gguf.tensors["token_embd.weight"].shape[0]


def _shortest(value: Any, where: str) -> float:
    """A 32-bit float as people wrote it: 1e-05, not 9.999999747378752e-06."""
    if not isinstance(value, float):
        raise SettingsError(f"{where}: attention.layer_norm_rms_epsilon is {value!r}, expected a number; {AGAIN}")
    return float(str(np.float32(value)))


def _scaling(gguf: GgufFile, config: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    """`rope_scaling` of the config, None where positions are not scaled."""
    name = gguf.fields["general.architecture"]
    kind = gguf.fields.get(f"{name}.rope.scaling.type", "none")
    if kind == "linear":
        return {"rope_type": "linear", "factor": _positive(gguf, "rope.scaling.factor", where, 1.0)}
    if kind != "none":
        raise SettingsError(
            f"{where}: positions scaled by '{kind}' are not read from GGUF; give the form of transformers"
        )
    if FREQUENCIES not in gguf.tensors:
        return None
    tensor = gguf.tensors[FREQUENCIES]
    divisors = np.fromfile(gguf.path, dtype="<f4", count=tensor.size // 4, offset=tensor.start)
    scaling = {"rope_type": "llama3", "factor": float(divisors.max()), **LLAMA3}
    if tensor.quantization != "F32" or not np.allclose(divisors, _llama3_divisors(config, scaling), rtol=1e-4):
        raise SettingsError(
            f"{where}: {FREQUENCIES} holds other frequencies than Llama 3 has; give the model in the form of "
            "transformers"
        )
    return scaling


def _llama3_divisors(config: Mapping[str, Any], scaling: Mapping[str, Any]) -> np.ndarray:
    """What Llama 3.1 divides its rotary frequencies by (transformers, `_compute_llama3_parameters`)."""
    steps = np.arange(0, config["head_dim"], 2, dtype=np.float64) / config["head_dim"]
    turns = LLAMA3["original_max_position_embeddings"] / (2 * pi * config["rope_theta"] ** steps)
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / scaling["factor"] + smooth)


def _check_tensors(gguf: GgufFile, config: Mapping[str, Any], where: str) -> None:
    """Refuse a file whose tensors are not those of the architecture. Raises SettingsError naming the first."""
    if config["num_hidden_layers"] > len(gguf.tensors):
        raise SettingsError(
            f"{where} has {len(gguf.tensors)} tensors for {config['num_hidden_layers']:,} blocks; {AGAIN}"
        )
    needed = _needed(gguf, config)
    for name, shape in needed.items():
        if name not in gguf.tensors:
            raise SettingsError(f"{where} lacks {name}; {AGAIN}")
        if gguf.tensors[name].shape != shape:
            raise SettingsError(
                f"{where}: {name} is {list(gguf.tensors[name].shape)}, and the metadata say {list(shape)}; {AGAIN}"
            )
    for name in gguf.tensors:
        if name not in needed and name != FREQUENCIES:
            raise SettingsError(
                f"{where} holds {name}, which {config['architectures'][0]} has not; give the model in the form of "
                "transformers"
            )


def _needed(gguf: GgufFile, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors that the model has, by their names in the file."""
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    block: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (hidden,),
        "attn_q.weight": (queries, hidden),
        "attn_k.weight": (keys, hidden),
        "attn_v.weight": (keys, hidden),
        "attn_output.weight": (hidden, queries),
        "ffn_norm.weight": (hidden,),
        "ffn_gate.weight": (inner, hidden),
        "ffn_up.weight": (inner, hidden),
        "ffn_down.weight": (hidden, inner),
    }
    if config.get("attention_bias") or config["model_type"] == "qwen2":
        block |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
    if config.get("attention_bias"):
        block["attn_output.bias"] = (hidden,)
    if config["model_type"] == "qwen3":
        block |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
    top: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (config["vocab_size"], hidden),
        "output_norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        top["output.weight"] = top["token_embd.weight"]
    blocks = range(config["num_hidden_layers"])
    return {**top, **{f"blk.{number}.{name}": shape for number in blocks for name, shape in block.items()}}
