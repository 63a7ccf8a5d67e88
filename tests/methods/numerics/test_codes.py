"""Codes and scales are found again from weights alone, whatever method made them, and give the weights to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.base import compress_linear, parse_method
from methods.numerics import codes
from methods.numerics.codes import NotOnGridError, find_codes
from methods.numerics.grids import GridRule, quantize_groups

DTYPES = ["float16", "bfloat16", "float32"]


@st.composite
def grids(draw: st.DrawFn) -> tuple[torch.Tensor, int, bool, int | None]:
    """(a weight that codes, scales and zero points of any kind make, its bits, symmetry and group size)."""
    bits, sym, dtype = draw(st.integers(2, 8)), draw(st.booleans()), getattr(torch, draw(st.sampled_from(DTYPES)))
    rows, groups, size = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape = (rows, groups)
    exponent = draw(st.integers(-12, 4))
    scale = ((1 + torch.rand(shape, generator=generator)) * 2.0**exponent).to(dtype)
    zero = torch.full(shape, 2 ** (bits - 1))
    if not sym:
        zero = torch.randint(0, 2**bits, shape, generator=generator)
    number = torch.randint(0, 2**bits, (*shape, size), generator=generator)
    kept = torch.rand(number.shape, generator=generator) < draw(st.sampled_from([0.1, 0.5, 1.0]))
    number = torch.where(kept, number, zero[..., None])
    weight = ((number - zero[..., None]).float() * scale[..., None].float()).to(dtype)
    return weight.flatten(1), bits, sym, draw(st.just(size)) if groups > 1 else None


@given(grids())
@settings(max_examples=300, deadline=None)
def test_every_grid_is_found_again(made: tuple[torch.Tensor, int, bool, int | None]) -> None:
    weight, bits, sym, group_size = made
    found = find_codes(weight, bits, sym=sym, group_size=group_size)
    assert torch.equal(found.weight(), weight)
    assert found.weight().dtype == weight.dtype
    assert int(found.codes.max()) < 2**bits
    assert found.group_size == (group_size or weight.shape[1])
    if sym:
        assert (found.zero == 2 ** (bits - 1)).all()


METHODS: list[Any] = [
    {"method": "rtn", "bits": 2, "group_size": 16},
    {"method": "rtn", "bits": 4, "group_size": 16, "sym": True, "mse": True},
    {"method": "rtn", "bits": 8},
    {"method": "rtn", "bits": 3, "sym": True, "sym_rule": "reference"},
    {"method": "gptq", "bits": 3, "group_size": 16},
    {"method": "gptq", "bits": 4, "group_size": 16, "sym": True, "mse": True},
    {"method": "gptq", "bits": 4, "group_size": 16, "act_order": False, "fresh_group_stats": True},
    {"method": "gptq", "bits": 4, "group_size": 16, "act_order": False, "static_groups": False},
    {"method": "gptq", "bits": 8, "sym": True},
    {"method": "sparsegpt", "sparsity": 0.5, "bits": 4},
    {"method": "sparsegpt", "pattern": "2:4", "bits": 3, "group_size": 16, "sym": True},
    [{"method": "sparsegpt", "pattern": "2:4"}, {"method": "gptq", "bits": 4, "group_size": 16}],
    [{"method": "wanda", "sparsity": 0.5}, {"method": "rtn", "bits": 8, "group_size": 16}],
    [{"method": "gptq", "bits": 4, "group_size": 16}, {"method": "wanda", "sparsity": 0.5}],
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("entry", METHODS, ids=str)
def test_what_a_method_leaves_is_on_its_grids(make_problem: Any, entry: Any, dtype: str) -> None:
    problem = make_problem(cols=64, length=80)
    method = parse_method(_stored_as(entry, dtype), "method")
    weight = compress_linear(method, problem.weight.to(getattr(torch, dtype)), problem.inputs).weight
    grid = next(step for step in getattr(method, "steps", [method]) if getattr(step, "rule", None) is not None)
    found = find_codes(weight, grid.rule.bits, sym=grid.rule.sym, group_size=grid.group_size)
    assert torch.equal(found.weight(), weight)
    assert torch.equal(found.codes == found.zero.repeat_interleave(found.group_size, 1), weight == 0)


def _stored_as(entry: Any, dtype: str) -> Any:
    """The entry with scales of this type in every step that has a grid."""
    if isinstance(entry, list):
        return [_stored_as(step, dtype) for step in entry]
    return {**entry, "scale_dtype": dtype} if "bits" in entry else entry


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scales_that_were_not_rounded_are_refused(make_problem: Any, dtype: str) -> None:
    rounded = quantize_groups(make_problem().weight, GridRule(4), 16).to(getattr(torch, dtype))
    with pytest.raises(NotOnGridError, match=rf"\d+ of 96 groups are no whole multiples of a {dtype} scale"):
        find_codes(rounded, 4, sym=False, group_size=16)


def test_weights_with_too_many_levels_are_refused(make_problem: Any) -> None:
    weight = quantize_groups(make_problem().weight, GridRule(4, scale_dtype="float16"), 16).half()
    with pytest.raises(NotOnGridError):
        find_codes(weight, 3, sym=False, group_size=16)
    with pytest.raises(NotOnGridError):
        find_codes(weight, 4, sym=False, group_size=64)


def test_inputs_of_a_group_that_do_not_stand_together_are_refused(make_problem: Any) -> None:
    problem = make_problem(rows=32)
    method = parse_method(
        {"method": "gptq", "group_size": 16, "static_groups": False, "scale_dtype": "float16"}, "method"
    )
    weight = compress_linear(method, problem.weight.half(), problem.inputs).weight
    with pytest.raises(NotOnGridError):
        find_codes(weight, 4, sym=False, group_size=16)


@given(grids(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_grids_of_scattered_columns_are_found_again(
    made: tuple[torch.Tensor, int, bool, int | None], seed: int
) -> None:
    weight, bits, sym, group_size = made
    order = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(seed))
    size = group_size or weight.shape[1]
    group_of = (order // size).to(torch.int32)
    found = find_codes(weight[:, order], bits, sym=sym, group_size=group_size, group_of=group_of)
    assert torch.equal(found.weight(), weight[:, order])
    assert found.group_size == size


def test_groups_of_unequal_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"group_of: expected groups 0, 1, \.\.\. of 2 columns each"):
        find_codes(torch.zeros(1, 4), 4, sym=True, group_size=2, group_of=torch.tensor([0, 1, 1, 1]))


def test_one_weight_off_the_grid_is_seen_wherever_it_stands(make_problem: Any) -> None:
    weight = quantize_groups(make_problem().weight, GridRule(4, scale_dtype="float16"), 16).half()
    for column in range(16):
        changed = weight.clone()
        largest = 2 * weight.abs().max()
        changed[5, column] = torch.nextafter(changed[5, column] + largest, torch.zeros_like(largest))
        with pytest.raises(NotOnGridError, match="1 of 96 groups"):
            find_codes(changed, 4, sym=False, group_size=16)


@pytest.mark.parametrize("chunk", [1, 50, 10_000])
def test_the_size_of_a_chunk_changes_nothing(make_problem: Any, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    weight = quantize_groups(make_problem().weight, GridRule(4, scale_dtype="bfloat16"), 16).bfloat16()
    whole = find_codes(weight, 4, sym=False, group_size=16)
    monkeypatch.setattr(codes, "CHUNK", chunk)
    parts = find_codes(weight, 4, sym=False, group_size=16)
    for name in ("codes", "scale", "zero"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    weight = torch.tensor([[1.0, bad, 2.0, 0.0]])
    with pytest.raises(NotOnGridError, match="1 of 1 groups"):
        find_codes(weight, 4, sym=False, group_size=None)
