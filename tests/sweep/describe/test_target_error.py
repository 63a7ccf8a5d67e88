from __future__ import annotations

from dataclasses import replace

from methods.base import get_method
from methods.target_error import target_error
from sweep.describe.base import Described
from sweep.describe.target_error import first_blocks


def test_it_is_that_of_the_first_two_blocks(described: Described) -> None:
    assert described.method is not None
    found = target_error(described.model, described.method, described.tokens, described.targets, batch_size=4)
    assert first_blocks(described) == {name: errors.by_token[1] for name, errors in found.items()}


def test_a_method_without_data_has_an_error_too(described: Described) -> None:
    errors = first_blocks(replace(described, method=get_method("rtn", bits=3, group_size=16)))
    assert all(error > 0 for error in errors.values())
