"""Which linears of a compressed model are on which grid, from the settings of its method and the report of its walk.

The latest step that gave a linear other values decides. Pruning after quantization keeps the codes; any other later
step puts the weights off the grid, and such a linear is stored dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from methods.base import Composition, Method
from methods.blockwise import CompressionReport, decoder_blocks
from methods.gptq import GPTQ
from methods.numerics.grids import GridRule
from methods.walk.job import NO_TOKENS
from sweep.formats.format import GridSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SOME_LINEAR = (4096, 4096)  # large enough that a low-rank method finds a rank for it


def grids_by_linear(model: PreTrainedModel, method: Method, report: CompressionReport) -> dict[str, GridSpec]:
    """The grid of every linear that is on one, by the linear's name in `model`."""
    steps = steps_of(method)
    prefix = blocks_name(model)
    found: dict[str, GridSpec] = {}
    for layer in report.layers:
        name = f"{prefix}.{layer.block}.{layer.linear}"
        step = steps[layer.step]
        if layer.fallback == NO_TOKENS:
            continue  # the step left it as it was
        grid = grid_of(step)
        if grid is not None:
            group_of = report.groups[layer.block, layer.linear] if grid.scattered else None
            found[name] = replace(grid, group_of=group_of)
        elif not step.keeps_codes:
            found.pop(name, None)
    return found


def planned_grids(method: Method) -> list[GridSpec]:
    """The grids that linears of a model are on when `method` has run, as far as its settings tell."""
    found: dict[GridSpec, None] = {}
    for step in steps_of(method):
        grid = grid_of(step)
        if step.linears == ["*"] and not step.skip_blocks and not step.keeps_codes:
            found.clear()  # it gives all linears other values
        if grid is not None:
            found[grid] = None
    return list(found)


def grid_of(method: Method) -> GridSpec | None:
    """The integer grid that this method's weights are on; None when they are on none, or on one of its own (SpQR)."""
    rule = getattr(method, "rule", None)
    if not isinstance(rule, GridRule):
        return None
    scattered = isinstance(method, GPTQ) and method.scattered
    return GridSpec(rule.bits, rule.sym, getattr(method, "group_size", None), scattered)


def unstorable_scales(method: Method, dtype: str) -> str | None:
    """Why scales of this method are no scales that a checkpoint in `dtype` holds; None when they are.

    A loader multiplies in the type of the scale, which is the model's; 16-bit scales are float32 numbers as well.
    """
    for step in steps_of(method):
        if grid_of(step) is not None and step.rule.scale_dtype != dtype != "float32":  # type: ignore[attr-defined]
            return (
                f"its scales are {step.rule.scale_dtype} in a model of {dtype}, so no loader gives its weights back "  # type: ignore[attr-defined]
                f"(measure it with scale_dtype: {dtype}, which is what ships)"
            )
    return None


def leaves_factors(method: Method) -> bool:
    """Whether two factors stand in the place of linears when `method` has run."""
    return any(step.factor_rank(*SOME_LINEAR, SOME_LINEAR[0]) is not None for step in steps_of(method))


def steps_of(method: Method) -> Sequence[Method]:
    """The steps of a composition; a single method is its only step."""
    return method.steps if isinstance(method, Composition) else [method]


def blocks_name(model: PreTrainedModel) -> str:
    """The name of the `ModuleList` of decoder blocks, such as `model.layers`."""
    blocks = decoder_blocks(model)
    return next(name for name, module in model.named_modules() if module is blocks)
