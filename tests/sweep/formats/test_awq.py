"""The AWQ format, read back by a plain reader of the published layout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from methods.numerics.codes import Codes
from sweep.formats.awq import AWQFormat
from sweep.formats.format import GridSpec

PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # of output 0, 1, 2 ... among the eight of a word


def read_awq(stored: dict[str, torch.Tensor]) -> torch.Tensor:
    """The weight [rows, cols]: eight outputs in a word of qweight [cols, rows / 8] and of qzeros [groups, rows / 8]."""

    def unpacked(words: torch.Tensor) -> torch.Tensor:
        lines = [[(word >> (4 * place)) & 15 for word in line for place in PLACES] for line in words.tolist()]
        return torch.tensor(lines)

    codes, zeros = unpacked(stored["qweight"]), unpacked(stored["qzeros"])
    each = len(codes) // len(zeros)
    zeros, scales = zeros.repeat_interleave(each, 0), stored["scales"].float().repeat_interleave(each, 0)
    return ((codes - zeros) * scales).T.to(stored["scales"].dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("group_size", [32, None])
@pytest.mark.parametrize("sym", [True, False])
def test_a_reader_of_the_layout_gets_the_weight(
    make_codes: Callable[..., Codes], sym: bool, group_size: int | None, dtype: str
) -> None:
    codes = make_codes(4, sym=sym, group_size=group_size, dtype=dtype)
    stored = AWQFormat().tensors(codes)
    groups = 1 if group_size is None else 96 // group_size
    assert {name: (tuple(t.shape), t.dtype) for name, t in stored.items()} == {
        "qweight": ((96, 8), torch.int32),
        "qzeros": ((groups, 8), torch.int32),
        "scales": ((groups, 64), getattr(torch, dtype)),
    }
    assert torch.equal(read_awq(stored), codes.weight())


def test_the_configuration_names_what_stays_dense() -> None:
    config = AWQFormat().config({"a": GridSpec(4, False, None)}, ["lm_head"])
    assert config == {
        "quant_method": "awq",
        "bits": 4,
        "group_size": -1,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": ["lm_head"],
    }


def test_what_it_cannot_hold_is_said() -> None:
    known = AWQFormat()
    assert known.refuses_grid(GridSpec(3, False, 32), "float16") == "it knows 4 bits"
    assert "float32" in (known.refuses_grid(GridSpec(4, False, 32), "float32") or "")
    assert "12 outputs" in (known.refuses_shape(GridSpec(4, False, 32), 12, 96) or "")
    assert known.refuses_mix([GridSpec(4, False, 32), GridSpec(4, False, 64)]) is not None
