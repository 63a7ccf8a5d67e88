"""Codes go into words as the package compressed-tensors packs them, and come back."""

from __future__ import annotations

import pytest
import torch

from sweep.formats.bits import pack_rows, unpack_rows


def codes(bits: int, rows: int = 5, cols: int = 77) -> torch.Tensor:
    generator = torch.Generator().manual_seed(bits)
    return torch.randint(0, 2**bits, (rows, cols), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("cols", [1, 31, 32, 77, 128])
def test_what_is_packed_comes_back_in_as_few_words_as_hold_it(bits: int, cols: int) -> None:
    given = codes(bits, cols=cols)
    words = pack_rows(given, bits)
    assert words.dtype == torch.int32
    assert words.shape == (5, -(-cols * bits // 32))
    assert torch.equal(unpack_rows(words, bits, cols), given)


@pytest.mark.parametrize("bits", range(2, 9))
def test_bits_stand_one_after_the_other_from_the_lowest_on(bits: int) -> None:
    given = codes(bits, rows=2)
    stream = sum(int(code) << (place * bits) for place, code in enumerate(given[0].tolist()))
    words = [word & 0xFFFFFFFF for word in pack_rows(given, bits)[0].tolist()]
    assert sum(word << (32 * place) for place, word in enumerate(words)) == stream


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_package_unpacks_what_is_packed_here(bits: int) -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    given = codes(bits)
    found = helpers.unpack_from_int32(pack_rows(given, bits), bits, torch.Size(given.shape))
    assert torch.equal(found.int() + 2 ** (bits - 1), given.int())
    assert torch.equal(helpers.pack_to_int32(found, bits), pack_rows(given, bits))
