"""Checkpoints read by the tensor: where in which safetensors file each one lies, without loading any.

Planning reads shapes from here and streaming reads single blocks, both from the headers alone (the format: 8 bytes of
length, a JSON header, then the data). The hard case is a file that is not what its header says (cut off by a full disk,
broken by a download, put together by hand): everything that the format promises is held against the file before
anything is computed, and so is the index against the files that it names.

Words of this room: *stored* is a tensor as a file's header has it; *derived* are buffers that older versions saved and
modules compute today; *tieable* are matrices of which one may stand for two.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from calib.settings import SettingsError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LARGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors format
FLOATS = ("F64", "F32", "F16", "BF16")  # that a model can be computed with
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64, "BOOL": 8}
BITS |= {f"{kind}{bits}": bits for kind in "IU" for bits in (8, 16, 32, 64)}
BITS |= {f"F8_{kind}": 8 for kind in ("E4M3", "E5M2", "E8M0", "E4M3FNUZ", "E5M2FNUZ")}
BITS |= {"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}
# what is computed from the configuration: buffers that older versions of transformers saved and newer ones ignore
DERIVED = re.compile(
    r"inv_freq$|(^|\.)(position_ids|masked_bias|(sin|cos)_cached|attn\.(bias|causal_mask)|attention\.bias)$"
)
# matrices that are one in many models: converters drop one of the two from its file and leave it in the index
TIEABLE = re.compile(r"(^|\.)(lm_head|embed_out|embed_in|embed_tokens|word_embeddings|wte)\.weight$")
AGAIN = "download or save it again"


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint."""

    file: Path
    dtype: str  # as safetensors writes it: F32, BF16, ...
    shape: tuple[int, ...]
    start: int  # of its data in the file, bytes
    size: int  # bytes


def checkpoint_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of the model in `folder` by name; empty when it has no safetensors files.

    Raises SettingsError naming a file, and a tensor in it, that is not what its header or the index says.
    """
    files = checkpoint_files(folder)
    tensors = stored_tensors(files)
    if files and files != [folder / SINGLE]:
        _check_index(folder, tensors)
    return tensors


def stored_tensors(files: Iterable[Path]) -> dict[str, Stored]:
    """All tensors of some safetensors files by name. Raises SettingsError naming a file that is not as its header says,
    or a tensor that two files have."""
    tensors: dict[str, Stored] = {}
    for file in files:
        for name, stored in read_header(file).items():
            if name in tensors:
                raise SettingsError(
                    f"models: {name} is in {tensors[name].file} and in {file}; which one counts is not said: "
                    "leave one of them out, or save the model again"
                )
            tensors[name] = stored
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
            raise SettingsError(f"models: {folder / INDEX} names {name}, which is not there; {AGAIN}")
    return [folder / name for name in names]


def indexed_files(folder: Path) -> list[str]:
    """Names of the files in the folder's index, sorted; none without an index."""
    return sorted(set(_weight_map(folder).values()))


def _weight_map(folder: Path) -> Mapping[str, str]:
    """The file of each tensor, as the index says it; empty without an index."""
    index = folder / INDEX
    if not index.is_file():
        return {}
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names:
        raise SettingsError(f"models: {index} has no weight_map of tensors to files; {AGAIN}")
    for tensor, file in names.items():
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise SettingsError(f"models: {index} gives {file!r} as the file of {tensor}, expected a name; {AGAIN}")
    return names


def _check_index(folder: Path, tensors: Mapping[str, Stored]) -> None:
    """Raise SettingsError when the index and the headers of its files do not name the same tensors.

    Whether one of two matrices that may be tied is enough, the loader tells, as of a checkpoint without an index.
    """
    named = _weight_map(folder)
    tied = any(map(TIEABLE.search, tensors))
    for name in sorted({*named, *tensors}):
        if DERIVED.search(name) or (tied and name not in tensors and TIEABLE.search(name)):
            continue
        stored = tensors.get(name)
        if stored is None or named.get(name) not in (None, stored.file.name):
            raise SettingsError(f"models: {folder / INDEX} has {name} in {named[name]}, which lacks it; {AGAIN}")
        if name not in named:
            raise SettingsError(f"models: {stored.file} holds {name}, which {folder / INDEX} does not name; {AGAIN}")


def read_json(file: Path) -> Any:
    """What a JSON file holds. Raises SettingsError naming the file and what is wrong with it."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise SettingsError(f"models: {file} is nested too deeply; {AGAIN}") from None
    except OSError as error:
        raise SettingsError(f"models: {file} cannot be read ({error.strerror}); {AGAIN}") from None
    except ValueError as error:
        raise SettingsError(f"models: {file} is not valid JSON ({error}); {AGAIN}") from None


# headers


def read_header(file: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file. Raises SettingsError for whatever the format does not allow."""
    try:
        with file.open("rb") as stream:
            total = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= min(LARGEST_HEADER, total - 8):
                raise SettingsError(f"models: {file} is no safetensors file, or cut off ({total:,} bytes); {AGAIN}")
            header = _parsed(file, stream.read(length))
    except OSError as error:
        raise SettingsError(f"models: {file} cannot be read ({error.strerror}); {AGAIN}") from None
    begin = 8 + length
    tensors = {name: _stored(file, name, about, begin) for name, about in header.items() if name != "__metadata__"}
    _check_places(file, tensors, begin, total)
    return tensors


def _parsed(file: Path, raw: bytes) -> dict[str, Any]:
    twice: list[str] = []

    def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                twice.append(name)
            found[name] = value
        return found

    try:
        header = json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise SettingsError(f"models: the header of {file} is no JSON; {AGAIN}") from None
    if not isinstance(header, dict):
        raise SettingsError(f"models: the header of {file} is a {type(header).__name__}, not a mapping; {AGAIN}")
    if twice:
        raise SettingsError(f"models: the header of {file} has {twice[0]!r} twice; {AGAIN}")
    return header


def _stored(file: Path, name: str, about: Any, begin: int) -> Stored:
    """The entry of one tensor; `begin` is the first byte of the data."""
    if not isinstance(about, dict):
        raise SettingsError(f"models: {file}: {name} is {_short(about)}, not a mapping; {AGAIN}")
    dtype, shape, places = (about.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        raise SettingsError(f"models: {file}: {name} has the dtype {_short(dtype)}, which is not known; {AGAIN}")
    if not isinstance(shape, list) or not all(_is_count(size) for size in shape):
        raise SettingsError(f"models: {file}: {name} has the shape {_short(shape)}, expected a list of sizes; {AGAIN}")
    if not isinstance(places, list) or len(places) != 2 or not all(_is_count(place) for place in places):
        raise SettingsError(
            f"models: {file}: {name} has the data_offsets {_short(places)}, expected first and last byte; {AGAIN}"
        )
    first, last = places
    needed = -(-prod(shape) * BITS[dtype] // 8)
    if last - first != needed:
        raise SettingsError(
            f"models: {file}: {name} has {last - first:,} bytes (data_offsets {first:,} to {last:,}), but {shape} of "
            f"{dtype} are {needed:,}; {AGAIN}"
        )
    return Stored(file, dtype, tuple(shape), begin + first, needed)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_places(file: Path, tensors: Mapping[str, Stored], begin: int, total: int) -> None:
    """The data of all tensors must fill the file from `begin` on, without holes and without overlaps."""
    end, before = begin, "the header"
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].size)):
        if stored.start + stored.size > total:
            raise SettingsError(
                f"models: {file} is cut off: it has {total:,} bytes, and {name} ends at "
                f"{stored.start + stored.size:,}; {AGAIN}"
            )
        if stored.start != end:
            what = "overlaps with" if stored.start < end else "leaves a hole after"
            raise SettingsError(f"models: {file}: {name} {what} {before} (byte {stored.start:,}, not {end:,}); {AGAIN}")
        end, before = stored.start + stored.size, name
    if end != total:
        raise SettingsError(f"models: {file} has {total - end:,} bytes after its last tensor; {AGAIN}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
