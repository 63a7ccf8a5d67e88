"""The header of a GGUF file, as the package's own reader has it."""

from __future__ import annotations

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
