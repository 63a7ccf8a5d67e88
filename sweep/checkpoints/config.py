"""What config.json tells about a model, and the models that it rules out: known from the file alone, without torch.

A study needs a dense decoder that predicts the next token from those before it. Encoders, encoder-decoders and vision
models load for a minute and then fail somewhere else, quantized models cannot be compressed again, and models with
their own code must be allowed by name. All of these say so in their configuration. The hard case is what the file does
not say: a type or a class that transformers does not know may still be a fine model, or another one under a known name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calib.settings import SettingsError, suggestion
from sweep.checkpoints.architectures import Architectures, known_architectures
from sweep.checkpoints.tensors import read_json

BLOCKS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
NEEDED = (*BLOCKS, "hidden_size", "n_embd", "d_model", "vocab_size", "num_attention_heads", "n_head", "n_heads")
NULLABLE = ("num_key_value_heads", "head_dim", "intermediate_size", "ffn_dim", "n_inner", "n_positions")
COUNTS = (*NEEDED, *NULLABLE, "max_position_embeddings")
DTYPES = ("float32", "bfloat16", "float16", "float64")  # of weights that can be computed with
CAUSAL_CLASSES = ("ForCausalLM", "LMHeadModel", "Model")  # how the classes of decoders end; `Model` is one without head
PACKAGES = {
    "gptq": "GPTQModel or AutoGPTQ",
    "awq": "AutoAWQ",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "llm-compressor (compressed-tensors)",
    "fp8": "its maker, in FP8",
    "fbgemm_fp8": "FBGEMM, in FP8",
    "mxfp4": "its maker, in MXFP4",
    "torchao": "torchao",
    "hqq": "HQQ",
    "quanto": "quanto",
    "aqlm": "AQLM",
    "eetq": "EETQ",
    "modelopt": "NVIDIA ModelOpt",
    "quark": "AMD Quark",
    "auto-round": "AutoRound",
    "bitnet": "BitNet",
}


def read_config(file: Path, place: str) -> dict[str, Any]:
    """The mapping in config.json. Raises SettingsError naming `place` in the study and the file."""
    config = read_json(file)
    if not isinstance(config, dict):
        raise SettingsError(f"{place}: {file} holds a {type(config).__name__}, not the mapping of a model's config")
    text = config.get("text_config")
    if text is not None and not isinstance(text, dict):
        raise SettingsError(f"{place}: {file}: text_config is {text!r}, expected a mapping")
    return config


def check_config(config: Mapping[str, Any], file: Path, place: str, *, trusted: bool = False) -> None:
    """Refuse what cannot be a study's model. `trusted`: the study allows the model's own code.

    Raises SettingsError naming `place` in the study, the file, the value and the remedy.
    """
    where = f"{place}: {file}"
    _refuse_quantized(config, where)
    for part in (config, config.get("text_config") or {}):
        _check_counts(part, where)
    for key in ("dtype", "torch_dtype"):
        if config.get(key) not in (None, *DTYPES):
            raise SettingsError(f"{where}: {key} is {config[key]!r}, expected one of {', '.join(DTYPES)}")
    if "transformers_weights" in config:
        raise SettingsError(
            f"{where}: takes the weights from {config['transformers_weights']!r} (transformers_weights), which is not "
            "supported; save the model with save_pretrained"
        )
    known = known_architectures()
    _check_names(config, where)
    name = _type_of(config, where)
    own_code = _own_code(config, where, runs=trusted or name not in known.types)
    if known.found and own_code and name not in known.types and not trusted:
        raise SettingsError(f"{where}: '{name}' runs code of its own ({own_code}); {ALLOW}")
    if not own_code or not trusted:
        _check_kind(config, name, known, where)


ALLOW = "read it, and allow it for this model with `trust_remote_code: true`, or give another model"


def blocks_of(config: Mapping[str, Any]) -> list[int]:
    """The numbers of decoder blocks that a config names: mostly one, and two where a block counts as two layers."""
    parts = (config.get("text_config") or {}, config)
    found = [[part[key] for key in BLOCKS if isinstance(part.get(key), int)] for part in parts]
    return found[0] or found[1]


def _refuse_quantized(config: Mapping[str, Any], where: str) -> None:
    for part in (config, config.get("text_config") or {}):
        for key in ("quantization_config", "compression_config", "quantization"):
            found = part.get(key)
            if found is None:
                continue
            method = str(found.get("quant_method") or "") if isinstance(found, Mapping) else ""
            if not method and key == "quantization":
                method = "mlx"
            maker = PACKAGES.get(method, method or "an unknown package")
            raise SettingsError(
                f"{where}: the model is quantized already (by {maker}: {key}), and cannot be compressed again; "
                "give the dense model that it was made from"
            )


def _check_counts(part: Mapping[str, Any], where: str) -> None:
    for key in COUNTS:
        if key not in part or (part[key] is None and key not in NEEDED):
            continue
        values = part[key] if isinstance(part[key], list) and part[key] else [part[key]]  # some have one for each block
        if not all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in values):
            raise SettingsError(
                f"{where}: {key} is {part[key]!r}, expected a whole number of at least 1; correct it, or save the "
                "model again"
            )


def _check_names(config: Mapping[str, Any], where: str) -> None:
    classes = config.get("architectures")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(item, str) for item in classes)):
        raise SettingsError(f"{where}: architectures is {classes!r}, expected a list of class names")


def _type_of(config: Mapping[str, Any], where: str) -> str:
    name = config.get("model_type")
    if not isinstance(name, str) or not name:
        raise SettingsError(
            f"{where}: model_type is {name!r}, expected the name of an architecture such as 'llama'; save the model "
            "with save_pretrained"
        )
    return name


def _own_code(config: Mapping[str, Any], where: str, *, runs: bool) -> str | None:
    """The code that a model brings along, as its config names it (`modeling_mine.MineForCausalLM`).

    `runs`: it is what the model is made by, so it must be in the folder. Without leave, transformers takes its own
    class for a type that it knows, whatever code the config names: most fine-tuned models name that of their base.
    """
    names = config.get("auto_map")
    if names is None:
        return None
    if not isinstance(names, dict):
        raise SettingsError(f"{where}: auto_map is {names!r}, expected a mapping of transformers' classes to code")
    own = {key: value for key, value in names.items() if key in ("AutoConfig", "AutoModelForCausalLM")}
    for value in own.values():
        if not isinstance(value, str) or "." not in value:
            raise SettingsError(f"{where}: auto_map names {value!r}, expected file.Class")
        if "--" in value and runs:
            raise SettingsError(
                f"{where}: its code is in another repository ({value}), where it can change under the same name; copy "
                "the *.py files beside the config, and take `...--` out of auto_map"
            )
    return own.get("AutoModelForCausalLM") or own.get("AutoConfig")


def _check_kind(config: Mapping[str, Any], name: str, known: Architectures, where: str) -> None:
    """Refuse all but decoders that transformers loads as a causal language model."""
    classes = config.get("architectures")
    needed = "a decoder-only causal language model is needed"
    named = classes[0] if classes else None
    if config.get("is_encoder_decoder") or name in known.seq_to_seq:
        raise SettingsError(f"{where}: '{name}' is an encoder-decoder; {needed}")
    if not known.found:
        return
    if name not in known.types:
        raise SettingsError(
            f"{where}: model_type '{name}' is not known to transformers{_hint(name, known)}; {needed}, of a known type "
            "or with code of its own"
        )
    if name in known.masked and not config.get("is_decoder"):
        raise SettingsError(f"{where}: '{name}' is an encoder, which sees the tokens that it should predict; {needed}")
    if name not in known.causal:
        kind = "a vision-language model" if name in known.image_text else "no language model"
        raise SettingsError(f"{where}: '{name}' is {kind} that transformers loads as a causal one; {needed}")
    if named is not None:
        _check_class(named, name, known, where)


def _hint(name: str, known: Architectures) -> str:
    near = suggestion(name, known.causal)
    return near.removesuffix("?") if near.startswith(", did you mean") else ""


def _check_class(named: str, name: str, known: Architectures, where: str) -> None:
    """The class that the model was saved from must be one that transformers knows; else it loads another one.

    It is right to do so for types that borrow a class (exaone is loaded as LLaMA).
    """
    loaded = known.causal[name]
    borrowed = re.sub(r"\W|_", "", name) not in loaded.lower()
    classes = {item.lower() for item in known.causal.values()}
    conditional = named.endswith("ForConditionalGeneration")  # its text model is loaded
    if named.lower() in classes or conditional or borrowed:
        return
    if not named.endswith(CAUSAL_CLASSES):
        raise SettingsError(f"{where}: {named} is no causal language model; give one, such as {loaded}")
    if not named.endswith("Model"):
        raise SettingsError(
            f"{where}: transformers has no class {named}, and would load {loaded} in its place; if it is the same, "
            f'write "architectures": ["{loaded}"]'
        )
