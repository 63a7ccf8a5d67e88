"""Headers of safetensors files, against the library that wrote the format."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.settings import SettingsError
from sweep.checkpoints.tensors import BITS, read_header, stored_tensors

BASE: dict[str, Any] = {
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]},
}


def write(file: Path, header: Any, data: bytes) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return file


def theirs(file: Path) -> bool:
    """Whether the safetensors library opens the file."""
    try:
        with safetensors.safe_open(file, framework="np"):
            return True
    except (safetensors.SafetensorError, OSError):
        return False


def ours(file: Path) -> bool:
    try:
        read_header(file)
    except SettingsError as error:
        assert str(file) in str(error)
        assert "\n" not in str(error)
        return False
    return True


def test_good_file_is_read(tmp_path: Path) -> None:
    found = read_header(write(tmp_path / "x", {"__metadata__": {"format": "pt"}, **BASE}, bytes(22)))
    assert {name: (item.dtype, item.shape, item.size) for name, item in found.items()} == {
        "a": ("F32", (2, 2), 16),
        "b": ("BF16", (3,), 6),
    }


NUMBERS = st.one_of(st.integers(-2, 24), st.sampled_from([True, None, 1.0, "2", [], {}, 10**30]))
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*BITS, "F4", "f32", "Q4", 4, None]),
        "shape": st.one_of(st.lists(NUMBERS, max_size=3), NUMBERS),
        "data_offsets": st.one_of(st.lists(NUMBERS, min_size=1, max_size=3), NUMBERS),
    },
)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(["a", "b", "c"]), change=ENTRY, size=st.integers(0, 26))
def test_whatever_the_library_refuses_is_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, change: dict[str, Any], size: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "changed.safetensors"
    write(file, {**BASE, name: {**BASE.get(name, {}), **change}}, bytes(size))
    if ours(file):
        assert theirs(file)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=60), length=st.one_of(st.none(), st.integers(0, 2**64 - 1)))
def test_any_bytes_end_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, length: int | None
) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.safetensors"
    file.write_bytes(content if length is None else struct.pack("<Q", length) + content)
    if ours(file):
        assert theirs(file)


def test_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for file in (tmp_path / "absent", tmp_path):
        with pytest.raises(SettingsError, match="cannot be read"):
            read_header(file)


def test_headers_name_what_safetensors_reads(tiny_model: Path) -> None:
    from safetensors.torch import load_file

    found = stored_tensors([tiny_model / "model.safetensors"])
    content = load_file(tiny_model / "model.safetensors")
    assert {name: list(tensor.shape) for name, tensor in content.items()} == {
        name: list(stored.shape) for name, stored in found.items()
    }
    with (tiny_model / "model.safetensors").open("rb") as file:
        for name, stored in found.items():
            file.seek(stored.start)
            assert file.read(stored.size) == content[name].numpy().tobytes()
