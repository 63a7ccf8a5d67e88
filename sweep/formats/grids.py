"""Which linears of a compressed model are on which grid, from the settings of its method and the report of its walk.

The latest step that gave a linear other values decides. Pruning after quantization keeps the codes; any other later
step puts the weights off the grid, and such a linear is stored dense.
"""

from __future__ import annotations

from typing import Any

from methods.base import Composition, Method
from methods.blockwise import CompressionReport, decoder_blocks
from sweep.formats.format import GridSpec


def grids_by_linear(model: Any, method: Method, report: CompressionReport) -> dict[str, GridSpec]:
    """The grid of every linear that is on one, by the linear's name in `model`."""
    steps = method.steps if isinstance(method, Composition) else [method]
    prefix = blocks_name(model)
    found: dict[str, GridSpec] = {}
    for layer in report.layers:
        name = f"{prefix}.{layer.block}.{layer.linear}"
        step = steps[layer.step]
        if layer.tokens == 0 and layer.fallback is not None and not step.data_free:
            continue  # no token reached it: the step left it as it was
        grid = grid_of(step)
        if grid is not None:
            found[name] = grid
        elif not step.keeps_codes:
            found.pop(name, None)
    return found


def grid_of(method: Method) -> GridSpec | None:
    """The integer grid that this method's weights are on; None when they are on none, or on one of its own (SpQR)."""
    rule = getattr(method, "rule", None)
    if rule is None:
        return None
    return GridSpec(rule.bits, rule.sym, getattr(method, "group_size", None))


def blocks_name(model: Any) -> str:
    """The name of the `ModuleList` of decoder blocks, such as `model.layers`."""
    blocks = decoder_blocks(model)
    return next(name for name, module in model.named_modules() if module is blocks)
