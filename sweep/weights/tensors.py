"""Single tensors out of files: where the bytes lie, and what they become in a model."""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from pathlib import Path

from calib.settings import SettingsError
from methods.lazy import torch
from sweep.checkpoints.tensors import Stored

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}  # safetensors' names and torch's


def dtype_of(stored: str) -> torch.dtype | None:
    """torch's dtype for a name in a safetensors header; None for one that nothing here computes with."""
    return getattr(torch, _DTYPES[stored]) if stored in _DTYPES else None


class DataFile:
    """An open file that threads read at any place; closed when nothing refers to it."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor = descriptor
        self.name = name
        weakref.finalize(self, os.close, descriptor)

    @classmethod
    def of(cls, path: Path) -> DataFile:
        return cls(os.open(path, os.O_RDONLY), str(path))

    def read(self, start: int, into: memoryview) -> None:
        """Fill `into` from byte `start` on. Raises OSError when the file ends before."""
        done = 0
        while done < len(into):
            count = os.preadv(self.descriptor, [into[done:]], start + done)
            if not count:
                raise OSError(f"{self.name} ended at byte {start + done:,}: it was cut off while it was in use")
            done += count

    def write(self, start: int, content: memoryview) -> None:
        """Put `content` at byte `start`."""
        done = 0
        while done < len(content):
            done += os.pwrite(self.descriptor, content[done:], start + done)


@dataclass(frozen=True)
class Source:
    """Where the data of one tensor lies, and what it becomes."""

    file: DataFile
    start: int
    size: int  # bytes
    stored: torch.dtype
    shape: tuple[int, ...]
    dtype: torch.dtype  # in the model


def source_of(stored: Stored, like: torch.Tensor, name: str, files: dict[Path, DataFile]) -> Source:
    """The source of the model's tensor `name`, shaped and typed as `like`.

    Raises SettingsError when what is stored does not fit. `files` are those that are open already.
    """
    dtype = dtype_of(stored.dtype)
    if tuple(like.shape) != stored.shape or dtype is None:
        raise SettingsError(
            f"models: {name} is {list(stored.shape)} of {stored.dtype} in {stored.file}, and the model takes "
            f"{list(like.shape)}; such a checkpoint cannot be streamed"
        )
    if stored.file not in files:
        files[stored.file] = DataFile.of(stored.file)
    return Source(files[stored.file], stored.start, stored.size, dtype, stored.shape, like.dtype)


def read_whole(source: Source, device: torch.device) -> torch.Tensor:
    """One tensor on `device`."""
    raw = torch.empty(source.size, dtype=torch.uint8)
    source.file.read(source.start, bytes_of(raw))
    return raw.view(source.stored).view(source.shape).to(device).to(source.dtype)


def bytes_of(raw: torch.Tensor) -> memoryview:
    """The memory of a flat tensor of bytes in the host's memory, to be read or overwritten."""
    return memoryview(raw.numpy())  # type: ignore[arg-type]
