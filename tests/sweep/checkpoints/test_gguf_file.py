"""The header of a GGUF file, as the package's own reader has it."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import pytest

from calib.settings import SettingsError
from sweep.checkpoints.gguf_file import QUANTIZATIONS, fingerprint_gguf, read_gguf
from tests.sweep.checkpoints.gguf_files import write_gguf


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf", quantization="Q8_0")


def test_quantizations_are_those_of_the_package() -> None:
    for number, (name, block, size) in QUANTIZATIONS.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, *gguf.GGML_QUANT_SIZES[kind]) == (name, block, size)


def test_header_is_what_the_package_reads(small: Path) -> None:
    ours, theirs = read_gguf(small, "models[0]"), gguf.GGUFReader(small)
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert dict(ours.fields) == fields
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        found = ours.tensors[tensor.name]
        assert found.shape == tuple(reversed(tensor.shape.tolist()))
        assert (found.start, found.size) == (tensor.data_offset, tensor.n_bytes)
        assert found.quantization == tensor.tensor_type.name


def test_a_file_that_is_cut_anywhere_is_refused(small: Path, tmp_path: Path) -> None:
    content = small.read_bytes()
    for length in [*range(0, 24), *range(24, len(content), 997), len(content) - 40]:
        (tmp_path / "cut.gguf").write_bytes(content[:length])
        with pytest.raises(SettingsError, match=r"models\[0\]: .*cut\.gguf (is cut off|is no GGUF file)"):
            read_gguf(tmp_path / "cut.gguf", "models[0]")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor(name: str, offset: int) -> bytes:
    """A float32 matrix of 4 x 4."""
    return text(name) + struct.pack("<IQQIQ", 2, 4, 4, 0, offset)


LISTS = text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5_000 + struct.pack("<IQ", 0, 0)
NUMBER = text("k") + struct.pack("<II", 4, 1)
HOSTILE = {  # numbers of tensors and entries, what follows, what is said
    "counts": (2**63, 2**63, b"\xff" * 64, "is cut off"),
    "lists of lists": (0, 1, LISTS, "a is a list of lists"),
    "items of no type": (0, 1, text("a") + struct.pack("<IIQ", 9, 99, 1) + b"0", "unknown type 99"),
    "an entry twice": (0, 2, NUMBER + NUMBER, "holds k twice"),
    "a tensor twice": (2, 0, tensor("a", 0) + tensor("a", 64), "holds a twice"),
    "tensors in one place": (2, 0, tensor("b", 32) + tensor("a", 0), "a and b lie over each other"),
    "a place before the data": (1, 0, tensor("a", 2**64 - 64), "is cut off"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_headers_that_no_writer_makes_are_refused(name: str, tmp_path: Path) -> None:
    tensors, entries, rest, message = HOSTILE[name]
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + rest + bytes(256))
    with pytest.raises(SettingsError, match=rf"^models\[0\]: .*m\.gguf.*{message}"):
        read_gguf(tmp_path / "m.gguf", "models[0]")


def test_fingerprint_knows_the_content_and_not_the_place(small: Path, tmp_path: Path) -> None:
    content = bytearray(small.read_bytes())
    (tmp_path / "moved.gguf").write_bytes(content)
    assert fingerprint_gguf(tmp_path / "moved.gguf", 1) == fingerprint_gguf(small, 1)
    assert fingerprint_gguf(small, 2) != fingerprint_gguf(small, 1)
    content[-1] ^= 1
    (tmp_path / "moved.gguf").write_bytes(content)
    assert fingerprint_gguf(tmp_path / "moved.gguf", 1) != fingerprint_gguf(small, 1)


def test_every_part_of_a_large_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "large.gguf"
    content = bytearray(40 << 20)
    found = set()
    for place in (0, 20 << 20, len(content) - 1):
        content[place - 100_000 if place else 0 : place + 100_000] = b"x" * 100_000
        file.write_bytes(content[: 40 << 20])
        found.add(fingerprint_gguf(file, 1))
    assert len(found) == 3
