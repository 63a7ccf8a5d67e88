"""GGUF files read by the tensor: metadata, and where in the file each tensor lies, without loading any.

The format (llama.cpp, `docs/gguf.md`, versions 2 and 3): `GGUF`, version, number of tensors and of metadata entries;
the entries; name, shape, type and place of each tensor; then the data from an aligned byte on. The reader of the
package `gguf` makes an array for each token of a vocabulary, which takes seconds; planning has a moment, so the header
is read here, and the package is asked for the numbers alone. The hard case is a file that ends before its header says.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from calib.settings import SettingsError

T = TypeVar("T")

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # bytes, where `general.alignment` says nothing else
AGAIN = "download or convert it again"
MAX_DIMENSIONS = 4

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")  # of a text

QUANTIZATIONS = {  # number in the file: name, weights of a block, bytes of a block
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
    30: ("BF16", 1, 2),
}


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a GGUF file."""

    quantization: str  # F32, Q4_K, ...
    number: int  # of the quantization in the file
    shape: tuple[int, ...]  # the last dimension is contiguous, as torch has it
    start: int  # of its data in the file, bytes
    size: int  # bytes


@dataclass(frozen=True)
class GgufFile:
    """What the header of a GGUF file says."""

    path: Path
    fields: Mapping[str, Any]  # metadata by its key
    tensors: Mapping[str, GgufTensor]


def read_gguf(path: Path, place: str) -> GgufFile:
    """The header of a GGUF file. Raises SettingsError that begins with `place`, where the study names the file."""
    try:
        about = path.stat()
        return _read_once(path, about.st_size, about.st_mtime_ns)
    except ValueError as error:  # an empty file cannot be mapped
        raise SettingsError(f"{place}: {path} is no GGUF file ({error}); {AGAIN}") from None
    except OSError as error:
        raise SettingsError(f"{place}: {path} cannot be read: {error.strerror}") from None
    except _Broken as error:
        raise SettingsError(f"{place}: {error}") from None


@lru_cache(maxsize=4)
def _read_once(path: Path, size: int, modified: int) -> GgufFile:
    """Planning asks for a header several times. A file of another size or time is another one."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _read(path, data, str(path))


class _Broken(Exception):
    """What is wrong with a file, in one line."""


_WHOLE = 16 * 2**20  # bytes up to which a file is hashed whole
_SAMPLES, _SAMPLE = 256, 64 * 2**10  # of a larger one 256 evenly spaced pieces of 64 KiB


def fingerprint_gguf(path: Path, version: int) -> str:
    """16 hex digits over a GGUF file, wherever it lies, and the version of the conversion.

    Files up to 16 MiB are hashed whole; of larger ones the size, the first 16 MiB (metadata and the first tensors) and
    256 evenly spaced pieces of 64 KiB of the rest: converting or quantizing a model changes every piece, while an edit
    of a few bytes by hand can go unseen.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(f"gguf:{version}:{size}:".encode())
    with path.open("rb") as stream:
        digest.update(stream.read(_WHOLE))
        for number in range(_SAMPLES if size > _WHOLE else 0):
            stream.seek(_WHOLE + max(0, size - _SAMPLE - _WHOLE) * number // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()[:16]


class _Cursor:
    """A place in a file, which only moves forward. Raises _Broken at its end."""

    def __init__(self, data: mmap.mmap, where: str) -> None:
        self.data = data
        self.where = where
        self.at = 0
        self.length = len(data)

    def take(self, form: str, count: int = 1) -> tuple[Any, ...]:
        """`count` numbers of a kind (a letter of `struct`)."""
        size = struct.calcsize(f"<{form}") * count
        self.check(size)
        values = struct.unpack_from(f"<{count}{form}", self.data, self.at)
        self.at += size
        return values

    def text(self) -> str:
        self.check(_LENGTH.size)
        (size,) = _LENGTH.unpack_from(self.data, self.at)
        self.at += _LENGTH.size
        self.check(size)
        raw = self.data[self.at : self.at + size]
        self.at += size
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise _Broken(f"{self.where} holds a text that is not UTF-8 (byte {self.at - size:,}); {AGAIN}") from None

    def check(self, size: int) -> None:
        if size > self.length - self.at:
            raise _Broken(
                f"{self.where} is cut off: it has {self.length:,} bytes, and its header goes on to byte "
                f"{self.at + size:,}; {AGAIN}"
            )


def _read(path: Path, data: mmap.mmap, where: str) -> GgufFile:
    if data[:4] != MAGIC:
        raise _Broken(f"{where} is no GGUF file (it does not begin with 'GGUF'); {AGAIN}")
    cursor = _Cursor(data, where)
    _, version = cursor.take("I", 2)
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        kind = "is big-endian" if swapped else f"has version {version} of the format"
        raise _Broken(f"{where} {kind}; expected a little-endian GGUF file of version 2 or 3")
    tensors, entries = cursor.take("Q", 2)
    fields = _each_once((_entry(cursor) for _ in range(entries)), where)
    infos = [_info(cursor) for _ in range(tensors)]
    alignment = fields.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise _Broken(f"{where}: general.alignment is {alignment!r}, expected a number of bytes; {AGAIN}")
    begin = -(-cursor.at // alignment) * alignment
    found = _each_once((_tensor(*info, begin, len(data), where) for info in infos), where)
    _refuse_overlap(found, where)
    return GgufFile(path, fields, found)


def _each_once(items: Iterable[tuple[str, T]], where: str) -> dict[str, T]:
    """The items by name. Raises _Broken for a name that comes twice: readers would differ in which one they take."""
    found: dict[str, T] = {}
    for name, item in items:
        if name in found:
            raise _Broken(f"{where} holds {name} twice; {AGAIN}")
        found[name] = item
    return found


def _refuse_overlap(tensors: Mapping[str, GgufTensor], where: str) -> None:
    order = sorted(tensors, key=lambda name: tensors[name].start)
    for first, second in pairwise(order):
        if tensors[first].start + tensors[first].size > tensors[second].start:
            raise _Broken(f"{where}: {first} and {second} lie over each other; {AGAIN}")


def _entry(cursor: _Cursor) -> tuple[str, Any]:
    key = cursor.text()
    (kind,) = cursor.take("I")
    return key, _value(cursor, kind, key)


def _value(cursor: _Cursor, kind: int, key: str) -> Any:
    if kind == _STRING:
        return cursor.text()
    if kind in _NUMBERS:
        return cursor.take(_NUMBERS[kind])[0]
    if kind != _ARRAY:
        raise _Broken(f"{cursor.where}: {key} has the unknown type {kind}; {AGAIN}")
    (inner,) = cursor.take("I")
    (count,) = cursor.take("Q")
    if inner == _ARRAY:
        raise _Broken(f"{cursor.where}: {key} is a list of lists, which no model needs; {AGAIN}")
    if inner in _NUMBERS:
        return list(cursor.take(_NUMBERS[inner], count))
    cursor.check(count)  # every item has a byte at least, so a broken count is found before anything is listed
    if inner == _STRING:
        return [cursor.text() for _ in range(count)]
    raise _Broken(f"{cursor.where}: {key} has items of the unknown type {inner}; {AGAIN}")


def _info(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """(name, shape, number of the quantization, offset)."""
    name = cursor.text()
    (dimensions,) = cursor.take("I")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise _Broken(f"{cursor.where}: {name} has {dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}; {AGAIN}")
    shape = cursor.take("Q", dimensions)
    (number,) = cursor.take("I")
    (offset,) = cursor.take("Q")
    return name, tuple(reversed(shape)), number, offset


def _tensor(
    name: str, shape: tuple[int, ...], number: int, offset: int, begin: int, total: int, where: str
) -> tuple[str, GgufTensor]:
    if number not in QUANTIZATIONS:
        known = ", ".join(known for known, _, _ in QUANTIZATIONS.values())
        raise _Broken(
            f"{where}: {name} has the quantization {number}, which is not read; give a file in one of {known}"
        )
    quantization, block, size = QUANTIZATIONS[number]
    if not all(shape) or shape[-1] % block:
        raise _Broken(f"{where}: {name} has the shape {list(shape)}, whose rows are no blocks of {block}; {AGAIN}")
    tensor = GgufTensor(quantization, number, shape, begin + offset, prod(shape) // block * size)
    if tensor.start + tensor.size > total:
        raise _Broken(
            f"{where} is cut off: it has {total:,} bytes, and {name} ends at {tensor.start + tensor.size:,}; {AGAIN}"
        )
    return name, tensor
