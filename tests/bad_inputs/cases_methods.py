"""Settings of methods that do not fit each other, the type they want, or the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bad_inputs.common import Case, write_study


def method(*steps: dict[str, Any]) -> Callable[[Path], list[str]]:
    """The small study with one method, or with a composition of several."""
    entry = list(steps) if len(steps) > 1 else steps[0]
    return lambda folder: [write_study(folder, methods=[entry]), "--local"]


CASES: dict[str, Case] = {
    "a rotation behind another step": Case(
        method({"method": "rtn"}, {"method": "rotation"}),
        r"methods\[0\]\.'rotation' after 'rtn' changes the whole model; put it first",
    ),
    "a rotation of some blocks": Case(
        method({"method": "rotation", "skip_blocks": [0]}, {"method": "rtn"}),
        r"methods\[0\]\[0\]\.skip_blocks: 'rotation' changes the whole model; leave the setting out",
    ),
    "scales of a type by its short name": Case(
        method({"method": "rtn", "scale_dtype": "fp16"}),
        r"methods\[0\]\.scale_dtype: expected 'float32', 'float16' or 'bfloat16', got 'fp16'",
    ),
    "scales of a number of bits": Case(
        method({"method": "gptq", "scale_dtype": 16}),
        r"methods\[0\]\.scale_dtype: expected 'float32', 'float16' or 'bfloat16', got 16",
    ),
    "one of several types of scales is unknown": Case(
        method({"method": "spqr", "scale_dtype": ["float16", "float8"]}),
        r"methods\[0\]\.scale_dtype: expected 'float32', 'float16' or 'bfloat16', got 'float8'",
    ),
    "scales without a grid": Case(
        method({"method": "sparsegpt", "scale_dtype": "float16"}),
        r"methods\[0\]\.bits: required when scale_dtype is given",
    ),
    "a rule in place of yes or no": Case(
        method({"method": "rtn", "sym": "reference"}), r"methods\[0\]\.sym: expected boolean, got 'reference'"
    ),
    "an unknown symmetric rule": Case(
        method({"method": "rtn", "sym": True, "sym_rule": "gptq"}),
        r"methods\[0\]\.sym_rule: expected 'usual' or 'reference', got 'gptq'",
    ),
    "a symmetric rule for asymmetric grids": Case(
        method({"method": "gptq", "sym_rule": "reference"}), r"methods\[0\]\.sym_rule: reference needs sym: true"
    ),
    "a symmetric rule in the second step": Case(
        method({"method": "wanda"}, {"method": "awq", "group_size": 32, "sym_rule": "reference"}),
        r"methods\[0\]\[1\]\.sym_rule: reference needs sym: true",
    ),
    "duo scaling without scales": Case(
        method({"method": "awq", "group_size": 32, "duo_scaling": True, "search_scale": False}),
        r"methods\[0\]\.duo_scaling: there is no scale to search",
    ),
    "static groups without groups": Case(
        method({"method": "gptq", "static_groups": True}), r"methods\[0\]\.static_groups: needs a group_size, got none"
    ),
    "groups that are fitted before and on the way": Case(
        method({"method": "gptq", "group_size": 32, "static_groups": True, "fresh_group_stats": True}),
        r"methods\[0\]\.fresh_group_stats: static groups are fitted before anything changes",
    ),
    "OWL with a pattern": Case(
        method({"method": "wanda", "pattern": "2:4", "allocation": "owl"}),
        r"methods\[0\]\.allocation: owl needs an unstructured sparsity, got pattern '2:4'",
    ),
    "a group that divides no width": Case(
        method({"method": "awq", "group_size": 48}), r"methods: AWQ 4-bit g48: group_size: 48 does not divide the "
    ),
}
