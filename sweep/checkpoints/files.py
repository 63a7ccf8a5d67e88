"""What a model's folder tells without loading it: its kind, its size, its fingerprint. Without torch, in no time.

Everything that the JSON files and the safetensors headers give away is checked here, so that a folder which is no model
stops a study before anything starts. Only the weight files that transformers would load count: a second copy of the
weights in the folder (`consolidated.safetensors`) changes neither the number of parameters nor the fingerprint. The
hard case is a fingerprint of many gigabytes (sampled, see `fingerprint_folder`).
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from calib.settings import SettingsError
from calib.tokenizer import check_tokenizer_files
from sweep.checkpoints.config import blocks_of, check_config, read_config
from sweep.checkpoints.tensors import (
    DERIVED,
    FLOATS,
    INDEX,
    SINGLE,
    TIEABLE,
    Stored,
    checkpoint_files,
    checkpoint_tensors,
    read_json,
)

_BLOCK = re.compile(r"(?:(?:model|transformer|gpt_neox)\.)?(?:decoder\.)?(?:layers|h|blocks)\.(\d+)\.")
_BLOCK_LINEAR = re.compile(r"model\.layers\.\d+\.((?:self_attn|mlp)\.\w+_proj)\.weight")
_CONTEXT_KEYS = (
    *("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "model_max_length"),
    *("context_length", "seq_length", "n_ctx"),
)
_FURTHER_BLOCKS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")  # that predict more tokens


@dataclass(frozen=True)
class Description:
    """What a folder tells of its model."""

    max_length: int | None  # tokens of context
    parameters: int | None  # None when the weights are not all here
    architecture: str | None
    stored_dtype: str | None  # of the checkpoint, where its config says so
    blocks: int | None = None  # decoder blocks; None where the config leaves that open


def describe_folder(folder: Path, place: str, *, trusted: bool = False) -> Description:
    """The model in `folder`; `place` is where the study names it. `trusted`: its own code is allowed.

    Raises SettingsError for a folder that holds no model which a study can use.
    """
    _check_is_model(folder, place)
    config = read_config(folder / "config.json", place)
    check_config(config, folder / "config.json", place, trusted=trusted)
    _check_generation(folder, place)
    _check_has_weights(folder, place)
    check_tokenizer_files(folder, place)
    tensors = checkpoint_tensors(folder)
    check_tensors(tensors, config, folder, place, trusted=trusted)
    return _description(config, tensors)


def describe_snapshot(folder: Path, place: str, *, trusted: bool = False) -> Description:
    """As `describe_folder`, for a hub model in the local cache, of which files may still be missing."""
    config = read_config(folder / "config.json", place)
    check_config(config, folder / "config.json", place, trusted=trusted)
    if not has_all_weights(folder):
        return _description(config, {})
    tensors = checkpoint_tensors(folder)
    check_tensors(tensors, config, folder, place, trusted=trusted)
    return _description(config, tensors)


def has_all_weights(folder: Path) -> bool:
    """Whether the safetensors files that hold the model are all in `folder`."""
    try:
        return bool(checkpoint_files(folder))
    except SettingsError:
        return False


def context_length_of(config: Mapping[str, Any]) -> int | None:
    """Tokens of context that a config names."""
    for part in (config, config.get("text_config") or {}):
        for key in _CONTEXT_KEYS:
            if isinstance(part.get(key), int):
                return int(part[key])
    return None


def linear_shapes_in(folder: Path) -> dict[str, tuple[int, int]]:
    """(rows, cols) of the linears of a LLaMA-like decoder by their name in a block, from the safetensors headers.

    Empty for another architecture, whose names say nothing for sure.
    """
    return linear_shapes_of({name: tensor.shape for name, tensor in checkpoint_tensors(folder).items()})


def linear_shapes_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """(rows, cols) of the linears of a block by their name in it, from the shapes of all tensors."""
    found = {}
    for name, shape in shapes.items():
        match = _BLOCK_LINEAR.fullmatch(name)
        if match and len(shape) == 2:
            found[match.group(1)] = (shape[0], shape[1])
    return found


# fingerprints

HASHED_WHOLE = 64 * 2**20  # files up to 64 MiB are hashed whole
SAMPLES, SAMPLE = 256, 64 * 2**10  # of larger ones, 256 evenly spaced pieces of 64 KiB (16 MiB)


@lru_cache(maxsize=256)
def fingerprint_folder(folder: str, *, with_code: bool = False) -> str:
    """16 hex digits over config.json and the weights, independent of where the folder lies.

    Weight files up to 64 MiB are hashed whole. Of a larger file the size, the header (names, shapes, dtypes) and 256
    evenly spaced pieces of 64 KiB are hashed: training or converting a model changes every piece, while an edit of a
    few bytes by hand can go unseen. A 13 GB model takes a fraction of a second. `with_code`: the Python files of a
    model that runs code of its own count as well.
    """
    digest = hashlib.sha256()
    root = Path(folder)
    files = [root / "config.json", *checkpoint_files(root)]
    code = sorted(root.rglob("*.py")) if with_code else []
    for file in [*files, *code]:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(root) if file in code else file.name}:{size}:".encode())
        with file.open("rb") as stream:
            if size <= HASHED_WHOLE:
                digest.update(stream.read())
                continue
            digest.update(stream.read(8 + int.from_bytes(stream.read(8), "little")))
            for number in range(SAMPLES):
                stream.seek((size - SAMPLE) * number // (SAMPLES - 1))
                digest.update(stream.read(SAMPLE))
    return digest.hexdigest()[:16]


# a folder that is no model


def _check_is_model(folder: Path, place: str) -> None:
    if (folder / "adapter_config.json").is_file():
        raise SettingsError(
            f"{place}: {folder} holds an adapter (adapter_config.json, such as LoRA); merge it into its base model "
            "(merge_and_unload of peft), save the result in another folder, and give that"
        )
    if (folder / "config.json").is_file():
        return
    found = _names(folder, ("*.gguf", "*.safetensors", "*.bin", "*.pth", "*.pt"))
    has = f" (it has {found[0]})" if found else ""
    if found and found[0].endswith(".gguf"):
        raise SettingsError(
            f"{place}: {folder} holds {found[0]} and no config.json; to measure a GGUF file, name the file itself: "
            f"{folder / found[0]}"
        )
    raise SettingsError(f"{place}: {folder} holds no config.json{has}; give the folder of a saved transformers model")


def _check_generation(folder: Path, place: str) -> None:
    """Its values are those of text generation; a file that is none stops transformers all the same."""
    file = folder / "generation_config.json"
    if file.is_file() and not isinstance(read_json(file), dict):
        raise SettingsError(f"{place}: {file} is no mapping of settings; delete it, or save the model again")


def _check_has_weights(folder: Path, place: str) -> None:
    for name in (SINGLE, INDEX):
        if (folder / name).is_dir():
            raise SettingsError(f"{place}: {folder / name} is a folder, expected a file; save the model again")
        if (folder / name).is_symlink() and not (folder / name).exists():
            raise SettingsError(
                f"{place}: {folder / name} is a link to {os.readlink(folder / name)}, which is not there; download it "
                "again"
            )
    if (folder / SINGLE).is_file() or (folder / INDEX).is_file():
        return
    found = _names(folder, ("*.safetensors", "*.bin", "*.gguf", "*.pth", "*.pt", "*.msgpack", "*.h5"))
    if not found:
        raise SettingsError(f"{place}: {folder} holds no *.safetensors weights; save the model with save_pretrained")
    others = f"{found[0]} and {len(found) - 1} other files of weights" if len(found) > 1 else found[0]
    raise SettingsError(
        f"{place}: {folder} holds no *.safetensors weights that transformers loads ({SINGLE} or {INDEX}), but "
        f"{others}; load the model with transformers and save it with save_pretrained"
    )


def _names(folder: Path, patterns: Iterable[str]) -> list[str]:
    return [file.name for pattern in patterns for file in sorted(folder.glob(pattern))]


# tensors that are not the model


def check_tensors(
    tensors: Mapping[str, Stored], config: Mapping[str, Any], folder: Path, place: str, *, trusted: bool = False
) -> None:
    """Refuse weights that cannot be computed with, and a number of blocks other than the config's.

    Raises SettingsError. Which tensors an architecture has in all, only building it tells (`model_check.py`).
    """
    if not tensors:
        raise SettingsError(f"{place}: the files of {folder} hold no tensors; save the model with save_pretrained")
    for name, tensor in tensors.items():
        if name.endswith(".weight") and tensor.dtype not in FLOATS and not DERIVED.search(name):
            raise SettingsError(
                f"{place}: {tensor.file}: {name} is {tensor.dtype}, which cannot be computed with (a quantized "
                f"checkpoint?); give weights in {', '.join(FLOATS)}"
            )
    if not (trusted and config.get("auto_map")):
        _check_blocks(tensors, config, folder, place)


def _check_blocks(tensors: Mapping[str, Stored], config: Mapping[str, Any], folder: Path, place: str) -> None:
    counts = blocks_of(config)
    numbers = {int(match.group(1)) for match in map(_BLOCK.match, tensors) if match}
    if not counts:
        return
    where = f"{place}: {folder / 'config.json'} names {counts[0]} blocks (num_hidden_layers), but the checkpoint"
    if counts[0] > len(tensors):
        raise SettingsError(f"{where} has {len(tensors)} tensors in all; give the config that belongs to it")
    if not numbers or any(numbers == set(range(count)) for count in counts):
        return
    lacking = sorted(set(range(counts[0])) - numbers)
    if lacking:
        raise SettingsError(f"{where} lacks block {lacking[0]}; give the config that belongs to it, or all weights")
    if not any(config.get(key) for key in _FURTHER_BLOCKS):
        raise SettingsError(f"{where} has block {max(numbers)} as well; give the config that belongs to it")


def _description(config: Mapping[str, Any], tensors: Mapping[str, Stored]) -> Description:
    return Description(
        max_length=context_length_of(config),
        parameters=count_parameters(tensors, config) if tensors else None,
        architecture=(config.get("architectures") or [None])[0],
        stored_dtype=config.get("dtype") or config.get("torch_dtype"),
        blocks=counts[0] if len(counts := blocks_of(config)) == 1 else None,
    )


def count_parameters(tensors: Mapping[str, Stored], config: Mapping[str, Any]) -> int:
    """Parameters from the safetensors headers, without buffers that older versions saved; a tied output matrix that was
    saved as well counts once."""
    both = sum(bool(TIEABLE.search(name)) for name in tensors) > 1
    left_out = {"lm_head.weight"} if both and config.get("tie_word_embeddings", False) else set()
    counted = [tensor for name, tensor in tensors.items() if name not in left_out and not DERIVED.search(name)]
    return sum(math.prod(tensor.shape) for tensor in counted)
