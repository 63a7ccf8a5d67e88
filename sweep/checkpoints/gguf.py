"""GGUF files as models of a study: each is converted once into a folder of safetensors, and that is what is measured.

Everything after the conversion (streaming, hashes, export) meets a folder as any other. Planning needs the header alone
and writes nothing. The folder lies in a cache under the hash of the file, so it is made once for each content on each
machine; it is written under another name and renamed, so it is there as a whole or not at all, and processes that want
it at the same time wait for one of them. What lies there is used while its content is what was written, as the hash
beside it says, and made again otherwise. Numbers of quantized weights come from the package `gguf`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from calib.files import content_hash
from calib.settings import SettingsError
from sweep.checkpoints.config import check_config
from sweep.checkpoints.files import Description, fingerprint_folder, linear_shapes_of
from sweep.checkpoints.gguf_file import GgufFile, GgufTensor, fingerprint_gguf, read_gguf
from sweep.checkpoints.gguf_model import config_of, halves_of_pairs, names_of, rotary_heads, shapes_of
from sweep.checkpoints.gguf_tokenizer import (
    chat_template,
    check_tokenizer,
    tokenizer_config,
    tokenizer_id_of,
    tokenizer_json,
)
from sweep.checkpoints.tensors import SINGLE

CONVERSION_VERSION = 1  # raised when the same file would give other weights than before
EXTRA = "pip install 'calibration-sweep[gguf]'"
_AS_THEY_ARE = {"F32": ("F32", "<f4"), "F16": ("F16", "<f2"), "BF16": ("BF16", "<u2")}  # safetensors' name and numpy's


@dataclass(frozen=True)
class GgufModel:
    """What a GGUF file tells of its model."""

    about: Description
    fingerprint: str
    tokenizer_id: str
    linear_shapes: Mapping[str, tuple[int, int]]  # (rows, cols) by name in a block


def describe_gguf(path: Path, place: str) -> GgufModel:
    """The model in a GGUF file; `place` is where the study names it.

    Raises SettingsError for a file that holds no model which a study can use, and without the package `gguf`.
    """
    if find_spec("gguf") is None:
        raise SettingsError(f"{place}: {path}: GGUF files need the package gguf; install it with {EXTRA}")
    gguf, config = _checked(path, place)
    shapes = shapes_of(gguf)
    return GgufModel(
        about=Description(
            max_length=config["max_position_embeddings"],
            parameters=sum(prod(shape) for shape in shapes.values()),
            architecture=config["architectures"][0],
            stored_dtype=config["dtype"],
            blocks=config["num_hidden_layers"],
        ),
        fingerprint=fingerprint_gguf(path, CONVERSION_VERSION),
        tokenizer_id=tokenizer_id_of(gguf),
        linear_shapes=linear_shapes_of(shapes),
    )


def converted_folder(path: Path, fingerprint: str, place: str) -> Path:
    """The folder that a GGUF file is converted into, made now where the cache does not have it.

    Raises SettingsError when the file is not that of the fingerprint any more, or the cache cannot be written.
    """
    folder = cache_folder() / fingerprint
    try:
        if fingerprint_gguf(path, CONVERSION_VERSION) != fingerprint:
            raise SettingsError(f"{place}: {path} has changed since the study was planned; start it again")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_suffix(".lock")):
            _remove_leftovers(folder)
            if not _as_written(folder):
                shutil.rmtree(folder, ignore_errors=True)
                _convert(path, folder, place)
                _hash_of(folder).write_text(_content(folder), encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"{place}: {path} cannot be converted into {folder}: {error.strerror or error}; XDG_CACHE_HOME names "
            "another place for caches"
        ) from None
    return folder


def cache_folder() -> Path:
    """Where converted models lie: `calibration-sweep/gguf` in the user's folder of caches (XDG)."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    caches = Path(home) if os.path.isabs(home) else Path("~/.cache").expanduser()  # by XDG relative ones are none
    return caches / "calibration-sweep" / "gguf"


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process of this machine at a time."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_leftovers(folder: Path) -> None:
    """Conversions that were killed; the lock says that none is under way."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)


def _as_written(folder: Path) -> bool:
    """Whether the converted model is there as it was made: a hash by name alone would trust whatever lies there."""
    stated = _hash_of(folder)
    try:
        return stated.is_file() and stated.read_text(encoding="utf-8") == _content(folder)
    except (OSError, ValueError):  # a file of it is gone, or is none
        return False


def _hash_of(folder: Path) -> Path:
    return folder.with_suffix(".content")


def _content(folder: Path) -> str:
    """A hash over weights and config (sampled where weights are large), and over all other files whole."""
    others = sorted(file for file in folder.iterdir() if file.name not in ("config.json", SINGLE))
    weights = fingerprint_folder.__wrapped__(str(folder))  # what was found a moment ago does not count
    return f"{weights} {content_hash(others)}"


def _checked(path: Path, place: str) -> tuple[GgufFile, dict[str, Any]]:
    gguf = read_gguf(path, place)
    config = config_of(gguf, place)
    check_config(config, path, place)
    check_tokenizer(gguf, config["vocab_size"], place)
    return gguf, config


def _convert(path: Path, folder: Path, place: str) -> None:
    gguf, config = _checked(path, place)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write_json(made / "config.json", config)
        _write_json(made / "tokenizer.json", tokenizer_json(gguf))
        _write_json(made / "tokenizer_config.json", tokenizer_config(gguf))
        if (template := chat_template(gguf)) is not None:
            (made / "chat_template.jinja").write_text(template, encoding="utf-8")
        with (made / SINGLE).open("wb") as out:
            _write_weights(gguf, config, out)
        made.chmod(0o755)  # mkdtemp's is the owner's alone
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=None), encoding="utf-8")


def _write_weights(gguf: GgufFile, config: Mapping[str, Any], out: BinaryIO) -> None:
    """All tensors as one safetensors file, one after the other, so that memory holds one of them."""
    names = dict(sorted(names_of(gguf).items()))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, own in names.items():
        tensor = gguf.tensors[own]
        dtype, kind = _AS_THEY_ARE.get(tensor.quantization, _AS_THEY_ARE["F32"])
        size = prod(tensor.shape) * np.dtype(kind).itemsize
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)
    with gguf.path.open("rb") as source:
        for own in names.values():
            weight = _dense(source, gguf.tensors[own])
            heads = rotary_heads(config, own)
            out.write(np.ascontiguousarray(weight if heads is None else halves_of_pairs(weight, heads)).tobytes())


def _dense(source: BinaryIO, tensor: GgufTensor) -> np.ndarray:
    """The numbers of a tensor in its shape: as they are in the file (bfloat16 as its bits), or float32."""
    source.seek(tensor.start)
    raw = np.frombuffer(source.read(tensor.size), dtype=np.uint8)
    if tensor.quantization in _AS_THEY_ARE:
        return raw.view(_AS_THEY_ARE[tensor.quantization][1]).reshape(tensor.shape)
    import gguf

    rows = raw.reshape(*tensor.shape[:-1], -1)
    dense = gguf.dequantize(rows, gguf.GGMLQuantizationType(tensor.number))
    return np.asarray(dense, dtype="<f4").reshape(tensor.shape)
