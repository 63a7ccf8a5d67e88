"""The GPTQ format, read back by a plain reader of the published layout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from methods.numerics.codes import Codes
from sweep.formats.format import GridSpec
from sweep.formats.gptq import GPTQFormat
from tests.sweep.formats.conftest import scatter


def read_bits(words: list[int], bits: int, count: int) -> list[int]:
    """`count` numbers of `bits` bits out of 32-bit words that make one long number, lowest first."""
    stream = sum((word & 0xFFFFFFFF) << (32 * place) for place, word in enumerate(words))
    return [(stream >> (place * bits)) & (2**bits - 1) for place in range(count)]


def read_gptq(stored: dict[str, torch.Tensor], bits: int, offset: int) -> torch.Tensor:
    """The weight [rows, cols]: codes down the columns of qweight, zero points (less `offset`) along qzeros."""
    rows, cols = stored["scales"].shape[1], len(stored["g_idx"])
    codes = torch.tensor([read_bits(column, bits, cols) for column in stored["qweight"].T.tolist()])
    zeros = torch.tensor([read_bits(line, bits, rows) for line in stored["qzeros"].tolist()]) + offset
    group = stored["g_idx"].long()
    return ((codes - zeros.T[:, group]) * stored["scales"].T[:, group].float()).to(stored["scales"].dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("group_size", [32, None])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_reader_of_the_layout_gets_the_weight(
    make_codes: Callable[..., Codes], bits: int, sym: bool, group_size: int | None, dtype: str
) -> None:
    codes = make_codes(bits, sym=sym, group_size=group_size, dtype=dtype)
    stored = GPTQFormat().tensors(codes)
    groups = 1 if group_size is None else 96 // group_size
    assert {name: (tuple(t.shape), t.dtype) for name, t in stored.items()} == {
        "qweight": ((96 * bits // 32, 64), torch.int32),
        "qzeros": ((groups, 64 * bits // 32), torch.int32),
        "scales": ((groups, 64), getattr(torch, dtype)),
        "g_idx": ((96,), torch.int32),
    }
    assert all(tensor.is_contiguous() for tensor in stored.values())
    config = GPTQFormat().config({"a": GridSpec(bits, sym, group_size)}, [])
    offset = {"gptq": 1, "gptq_v2": 0}[config["checkpoint_format"]]
    assert torch.equal(read_gptq(stored, bits, offset), codes.weight())


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [3, 4])
def test_inputs_of_a_group_that_do_not_stand_together_are_named(
    make_codes: Callable[..., Codes], bits: int, sym: bool
) -> None:
    codes = scatter(make_codes(bits, sym=sym, group_size=32))
    grid = GridSpec(bits, sym, 32, scattered=True)
    stored, config = GPTQFormat().tensors(codes), GPTQFormat().config({"a": grid}, [])
    assert config["desc_act"] is True
    assert GPTQFormat().grid(config, "a") == grid
    assert (stored["g_idx"].dtype, stored["g_idx"].bincount().tolist()) == (torch.int32, [32, 32, 32])
    assert torch.equal(read_gptq(stored, bits, 1 if sym else 0), codes.weight())
    assert torch.equal(GPTQFormat().codes(stored, grid).weight(), codes.weight())


def test_a_zero_point_of_zero_survives(make_codes: Callable[..., Codes]) -> None:
    codes = make_codes(4, sym=False, group_size=32)
    lowest = Codes(codes.codes, codes.scale, torch.zeros_like(codes.zero), 4, False)
    assert torch.equal(read_gptq(GPTQFormat().tensors(lowest), 4, 0), lowest.weight())


def test_linears_on_other_grids_and_on_none_have_rules_of_their_own() -> None:
    usual, other = GridSpec(4, True, 128), GridSpec(8, True, None)
    config = GPTQFormat().config({"model.a": usual, "model.b": other, "model.c": usual}, ["lm_head"])
    assert (config["bits"], config["group_size"], config["sym"], config["desc_act"]) == (4, 128, True, False)
    assert config["dynamic"] == {
        r"-:^lm_head$": {},
        r"+:^model\.b$": {"bits": 8, "group_size": -1, "sym": True},
    }


def test_what_it_cannot_hold_is_said() -> None:
    known = GPTQFormat()
    assert known.refuses_grid(GridSpec(5, True, None), "float16") == "it knows 2, 3, 4, 8 bits"
    assert "float32" in (known.refuses_grid(GridSpec(4, True, None), "float32") or "")
    assert known.refuses_grid(GridSpec(4, True, None), "bfloat16") is None
    assert known.refuses_shape(GridSpec(4, True, None), 64, 96) is None
    assert "12 outputs of 4 bits" in (known.refuses_shape(GridSpec(4, True, None), 12, 96) or "")
    assert "48 inputs of 3 bits" in (known.refuses_shape(GridSpec(3, True, None), 64, 48) or "")
    assert known.refuses_mix([GridSpec(4, True, None), GridSpec(8, True, 32)]) is None
    assert "two versions" in (known.refuses_mix([GridSpec(4, True, None), GridSpec(4, False, None)]) or "")
