from __future__ import annotations

import pytest
import torch

from methods.numerics.blocks import blocks_of, column_blocks, push, spread_of


@pytest.fixture
def upper():
    generator = torch.Generator().manual_seed(0)
    return torch.triu(torch.rand(50, 50, generator=generator)) + torch.eye(50)


@pytest.mark.parametrize(("size", "group"), [(16, None), (16, 24), (128, None), (7, 7), (16, 5)])
def test_blocks_cover_the_columns_and_none_reaches_over_the_start_of_a_group(size, group):
    bounds = list(column_blocks(50, size, group))
    assert [column for start, stop in bounds for column in range(start, stop)] == list(range(50))
    assert all(stop - start <= size for start, stop in bounds)
    if group is not None:
        assert all(start // group == (stop - 1) // group for start, stop in bounds)


@pytest.mark.parametrize("size", [16, 50, 64])
def test_what_is_made_ahead_for_many_blocks_is_what_each_would_make(upper, size):
    weights, loss = torch.rand(50, 3), torch.zeros(3)
    for block in blocks_of(weights, upper, torch.empty(50, 3), loss, column_blocks(50, size, None)):
        corner = upper[block.start : block.stop, block.start : block.stop]
        assert torch.equal(block.spread, spread_of(corner))
        inner = block.part(slice(1, 4))
        assert (inner.start, inner.stop) == (block.start + 1, block.start + 4) or block.stop - block.start < 4


def test_spread_is_the_error_that_later_columns_take_over(upper):
    spread = spread_of(upper)
    for i in range(50):
        for j in range(50):
            assert spread[i, j] == pytest.approx(-float(upper[i, j] / upper[i, i]) if j > i else 0.0, abs=1e-7)


def test_errors_are_pushed_onto_all_later_columns(upper):
    columns, errors = torch.rand(50, 3), torch.rand(16, 3)
    expected = columns.clone()
    for i in range(16):
        expected[32:] -= upper[16 + i, 32:, None] * errors[i]
    push(columns, upper, errors, 16, 32)
    assert torch.allclose(columns, expected, atol=1e-5)
    push(columns, upper, errors, 34, 50)  # nothing comes later
