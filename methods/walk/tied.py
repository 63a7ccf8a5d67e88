"""Tied weights, a matrix that stands in several places: all weights of a block (as in ALBERT), or a part of them.

A walk compresses block by block, with the inputs of that block alone. A matrix that comes again in a later block would
be compressed a second time, for other inputs, and what the first time promised would be lost without a word. So it is
refused, and may stay dense. Linears that are used twice within one block as one module are compressed once, with all
of their inputs.
"""

from __future__ import annotations

from typing import Any

from calib.settings import SettingsError
from methods.base import Composition, Method
from methods.lazy import torch
from methods.walk.linears import Linear, linears_of


def refuse_tied(blocks: torch.nn.ModuleList, method: Method) -> None:
    """Raise SettingsError when the method would compress a matrix that two places of the model share."""
    for step in method.steps if isinstance(method, Composition) else [method]:
        seen: dict[Any, tuple[int, str]] = {}
        for index, block in enumerate(blocks):
            if step.skips(index, len(blocks)):
                continue
            for linear in linears_of(block):
                if not step.selects(linear.name):
                    continue
                first, name = seen.setdefault(_place(linear), (index, linear.name))
                if (first, name) != (index, linear.name):
                    raise SettingsError(
                        f"{step.label}: block {index} {linear.name} is the very matrix of block {first} {name}, and a "
                        "matrix that stands in several places cannot be compressed block by block; leave it dense "
                        f'with linears: ["*", "!{linear.name}"]'
                    )


def _place(linear: Linear) -> Any:
    """Where the weight lies: equal for two linears with the very same numbers."""
    parameter = getattr(linear.module, linear.attribute) if linear.kind == "expert" else linear.module.weight
    if parameter.is_meta:
        return id(parameter), linear.expert
    return parameter.data_ptr(), tuple(parameter.shape), linear.expert
