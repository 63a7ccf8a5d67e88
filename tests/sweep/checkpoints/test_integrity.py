from __future__ import annotations

import pytest
import torch

from calib.settings import SettingsError
from sweep.checkpoints.integrity import count_not_finite, refuse_differences, refuse_not_finite, refuse_untied

NOTHING: dict[str, list[object]] = {"missing_keys": [], "mismatched_keys": [], "unexpected_keys": []}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"missing_keys": ["b", "a"]}, "m: the checkpoint lacks a and 1 other tensors, which Net needs"),
        ({"mismatched_keys": [("a", (2,), (3,))]}, r"m: a is \[2\] in the checkpoint, and Net takes \[3\]"),
        ({"unexpected_keys": ["a"]}, "m: the checkpoint holds a, which Net does not have"),
    ],
)
def test_the_first_tensor_that_differs_is_named(found: dict[str, list[object]], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        refuse_differences("m", "Net", {**NOTHING, **found})


def test_buffers_that_modules_compute_today_are_no_difference() -> None:
    refuse_differences("m", "Net", {**NOTHING, "unexpected_keys": ["layers.0.self_attn.rotary_emb.inv_freq"]})


def test_two_matrices_that_the_config_ties_are_refused() -> None:
    refuse_untied("m", [])
    with pytest.raises(SettingsError, match="config.json ties lm_head.weight to another matrix"):
        refuse_untied("m", ["lm_head.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_that_are_none_are_counted(dtype: torch.dtype) -> None:
    weight = torch.zeros(3, 4, dtype=dtype)
    assert count_not_finite(weight) == 0
    weight[0, 0], weight[1, 2], weight[2, 3] = float("nan"), float("inf"), float("-inf")
    assert count_not_finite(weight) == 3
    with pytest.raises(SettingsError, match="m: w has 3 numbers of 12 that are NaN or infinite"):
        refuse_not_finite("m", [("w", weight)])


def test_integers_and_nothing_are_finite() -> None:
    assert count_not_finite(torch.arange(3)) == 0
    assert count_not_finite(torch.zeros(0)) == 0
