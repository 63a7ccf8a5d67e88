"""What a format cannot hold is known from the settings, and the message names the formats that can."""

from __future__ import annotations

from typing import Any

import pytest

from calib.settings import SettingsError
from methods.base import parse_method
from sweep.formats.catalog import NAMES, check_method, check_name, usual_format
from sweep.formats.format import FormatError

FOUR = {"method": "gptq", "bits": 4, "group_size": 32, "scale_dtype": "float16"}
SVD = {"method": "svd", "ratio": 0.5}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (FOUR, "compressed-tensors"),
        ({**FOUR, "static_groups": False}, "compressed-tensors"),
        ({"method": "wanda"}, "dense"),
        ({"method": "spqr"}, "spqr"),
        ([{"method": "wanda"}, {"method": "spqr"}], "dense"),
        ([FOUR, {"method": "spqr"}], "spqr"),
        (SVD, "factored"),
        ([SVD, FOUR], "factored"),
        ("nf4", "bitsandbytes"),
        ([{"method": "wanda"}, {"method": "nf4", "double_quant": True}], "bitsandbytes"),
        ([{"method": "nf4"}, {"method": "wanda"}], "dense"),
        ([SVD, {"method": "nf4"}], "factored"),
        ([{"method": "nf4", "linears": ["mlp.*"]}, {"method": "nf4", "block_size": 128}], "dense"),
    ],
)
def test_the_usual_format_changes_no_weight(entry: Any, expected: str) -> None:
    method = parse_method(entry, "method")
    assert usual_format(method) == expected
    check_method(expected, method, "float16")


@pytest.mark.parametrize(
    ("name", "entry", "dtype", "message"),
    [
        ("awq", {**FOUR, "bits": 3}, "float16", "it knows 4 bits; compressed-tensors or gptq or dense can"),
        ("gptq", {**FOUR, "bits": 5}, "float16", "it knows 2, 3, 4, 8 bits; compressed-tensors or dense can"),
        ("gptq", FOUR, "float32", "measured in float32.*; compressed-tensors or dense can"),
        ("gptq", {"method": "wanda"}, "float16", "it leaves no linear on an integer grid; dense can"),
        ("gptq", {"method": "nf4"}, "float16", "no linear on an integer grid; bitsandbytes or dense can"),
        ("bitsandbytes", FOUR, "float16", "its last step is not NF4.*; compressed-tensors or gptq or awq or dense can"),
        ("gptq", SVD, "float16", "two factors stand in the place of a linear; factored or dense can"),
        ("factored", FOUR, "float16", "it leaves no low-rank factors; compressed-tensors or gptq or awq or dense can"),
        ("compressed-tensors", FOUR, "bfloat16", "scale_dtype: bfloat16, which is what ships.*; dense can"),
        (
            "awq",
            {**FOUR, "static_groups": False},
            "float16",
            "no g_idx .*static_groups: true.*; compressed-tensors or gptq or dense can",
        ),
        ("compressed-tensors", {"method": "spqr"}, "float16", "no linear on an integer grid; spqr or dense can"),
        (
            "spqr",
            [{"method": "wanda"}, {"method": "spqr"}],
            "float16",
            "a step prunes, whose zeros are no .*; dense can",
        ),
        (
            "awq",
            [{**FOUR, "linears": ["mlp.*"]}, {**FOUR, "group_size": 64, "linears": ["self_attn.*"]}],
            "float16",
            "one grid for all linears; compressed-tensors or gptq or dense can",
        ),
    ],
)
def test_the_message_names_what_can_hold_the_method(name: str, entry: Any, dtype: str, message: str) -> None:
    method = parse_method(entry, "method")
    with pytest.raises(FormatError, match=f"--format {name} cannot hold .*: .*{message}$"):
        check_method(name, method, dtype)


@pytest.mark.parametrize("name", NAMES)
def test_known_names_pass(name: str) -> None:
    check_name(name)


def test_a_misspelt_format_gets_a_suggestion() -> None:
    with pytest.raises(SettingsError, match=r"--format: unknown format 'gpqt', did you mean 'gptq'\?$"):
        check_name("gpqt")
