"""Checkpoints read by the tensor: where in which safetensors file each one lies, without loading any.

Planning reads shapes from here and streaming reads single blocks, both from the headers alone (the format: 8 bytes of
length, a JSON header, then the data). The hard case is a file that was cut off by a full disk or a broken download: its
header is fine and names data that is not there, so sizes are held against the file before anything is computed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from calib.settings import SettingsError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LARGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors format
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint."""

    file: Path
    dtype: str  # as safetensors writes it: F32, BF16, ...
    shape: tuple[int, ...]
    start: int  # of its data in the file, bytes
    size: int  # bytes


def stored_tensors(files: Iterable[Path]) -> dict[str, Stored]:
    """All tensors of some safetensors files by name. Raises SettingsError naming a file that is cut off."""
    tensors: dict[str, Stored] = {}
    for file in files:
        tensors.update(_read_header(file))
    return tensors


def checkpoint_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the model in `folder`, by the rule of transformers: one file, else the index.

    Empty when there are none. Raises SettingsError naming a file of the index that is not there.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    names = indexed_files(folder)
    for name in names:
        if not (folder / name).is_file():
            raise SettingsError(f"models: {folder / INDEX} names {name}, which is not there; download or save it again")
    return [folder / name for name in names]


def indexed_files(folder: Path) -> list[str]:
    """Names of the files in the folder's index, sorted; none without an index."""
    index = folder / INDEX
    if not index.is_file():
        return []
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"models: {index} is not an index of safetensors files: {error!r}") from None


def _read_header(file: Path) -> dict[str, Stored]:
    total = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(LARGEST_HEADER, total - 8):
            raise SettingsError(f"models: {file} is no safetensors file, or cut off; download or save it again")
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            raise SettingsError(f"models: the header of {file} is no JSON; download or save it again") from None
    tensors = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        first, last = about["data_offsets"]
        if 8 + length + last > total:
            raise SettingsError(
                f"models: {file} is cut off: it has {total:,} bytes, and {name} ends at {8 + length + last:,}; "
                "download or save it again"
            )
        tensors[name] = Stored(file, about["dtype"], tuple(about["shape"]), 8 + length + first, last - first)
    return tensors
