"""Do these settings fit this model? Answered before any work, from the model's structure and at most two tokens.

Each check raises SettingsError naming the place, the value and the remedy. Hard cases: a later step of a composition
meets the linears that the earlier ones leave (`shapes.py`); and mixtures of experts, whose weights have as many layouts
as there are authors, so a run of the block tells whether a token meets an expert as a linear [rows, cols].
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

from calib.settings import SettingsError
from methods.base import Method
from methods.inputs.structure import Structure
from methods.lazy import torch
from methods.walk.batches import PROBE, Batches, capture
from methods.walk.collector import Collector
from methods.walk.decoder import decoder_blocks
from methods.walk.linears import Linear, Unsupported, experts_of, linears_of, unsupported, watched
from methods.walk.residency import home_of, resident
from methods.walk.shapes import LinearShape, looks_at_shared_inputs, shapes_after
from methods.walk.tied import refuse_tied

DTYPES = ("float32", "bfloat16", "float16", "float64")  # of weights that can be compressed


def check_device(model: torch.nn.Module) -> None:
    """Raise SettingsError when the walk cannot reach the model's weights: it wants all of them on one device."""
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if home_of(model) is None and (len(devices) > 1 or devices == ["meta"]):
        raise SettingsError(
            f"model: its weights are on {' and '.join(devices)}; load it on one device (no device_map), or as a "
            "study's model with `placement: streamed` when it does not fit"
        )


def check_steps(model: torch.nn.Module, steps: Sequence[Method]) -> None:
    """Raise SettingsError when the settings of a step do not fit the linears that it will find."""
    blocks = decoder_blocks(model)
    for step in steps:
        refuse_tied(blocks, step)
    shapes = linear_shapes(model, blocks, by_input=any(looks_at_shared_inputs(step) for step in steps[:-1]))
    beyond = _unsupported_weights(model, blocks)
    for step in steps:
        step.check_model(model)
        _check_supported(step, beyond, len(blocks))
        _check_gradients(step, model)
        _check_skip_blocks(step.skip_blocks, len(blocks))
        names = [linear.name for linears in shapes for linear in linears] + [weight.name for _, weight in beyond]
        for index, linears in enumerate(shapes):
            if not step.skips(index, len(blocks)):
                shapes[index] = shapes_after(step, linears)
        _check_patterns(step.linears, names)


def check_weighted(model: torch.nn.Module, steps: Sequence[Method]) -> None:
    """Raise SettingsError when a step cannot let tokens count more or less than once."""
    for step in steps:
        if step.data_free:
            continue
        if step.needs_gradients:
            raise SettingsError(f"token_weights: {step.label} looks at gradients of the loss, which has no weights")
        for index, block in enumerate(decoder_blocks(model)):
            for experts in experts_of(block):
                if step.selects(experts[0].name) and not step.skips(index, len(decoder_blocks(model))):
                    raise SettingsError(
                        f"token_weights: block {index} {experts[0].group}: fused experts do not tell which token they "
                        f'meet; leave them dense with linears: ["*", "!{experts[0].group}*"]'
                    )


def linear_shapes(
    model: torch.nn.Module, blocks: torch.nn.ModuleList, *, by_input: bool = False
) -> list[list[LinearShape]]:
    """The linears of every block; `by_input`: a forward of two tokens tells which of them share an input."""
    leaders = _leaders(model, blocks) if by_input else [{} for _ in blocks]
    return [
        [_shape(linear, index, leaders[index]) for linear in linears_of(block)] for index, block in enumerate(blocks)
    ]


def _leaders(model: torch.nn.Module, blocks: torch.nn.ModuleList) -> list[dict[str, str]]:
    """For every block by name of a linear: the first linear that receives the same tensor."""
    found: list[dict[str, str]] = []
    batches = capture(model, blocks, PROBE)
    for index, block in enumerate(blocks):
        with resident(model, index, index + 1 if index + 1 < len(blocks) else None):
            collector = Collector(linears_of(block), Structure, to_the_end=True)
            output = collector.run(block, index, batches, 0)
        assert output is not None  # the pass went to the end
        batches.keep(0, output)
        shared = collector.finished()
        found.append({linear.name: each.linears[0].name for each in shared for linear in each.linears})
    return found


def _shape(linear: Linear, block: int, leaders: dict[str, str]) -> LinearShape:
    rows, cols = linear.weight.shape
    dtype = str(linear.weight.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise SettingsError(
            f"block {block} {linear.name}: its weight is {dtype}; load the model unquantized, as float32, bfloat16 or "
            "float16"
        )
    place = f"block {block} {{}}"
    return LinearShape(linear.name, rows, cols, place, leaders.get(linear.name), splits=linear.kind != "expert")


def _unsupported_weights(model: torch.nn.Module, blocks: torch.nn.ModuleList) -> list[tuple[int, Unsupported]]:
    """Large weights of every block, with its number, that are no linears here (see `unsupported`)."""
    found = [(index, weight) for index, block in enumerate(blocks) for weight in unsupported(block)]
    judged: dict[Any, bool] = {}
    batches: Batches | None = None
    for index, block in enumerate(blocks):
        for group in experts_of(block):
            module = group[0].module
            key = (type(module), group[0].attribute)
            if key not in judged:
                batches = batches or capture(model, blocks, PROBE)
                with resident(model, index):
                    judged[key] = _run_as_linears(block, index, group, batches)
            if not judged[key]:
                shape = tuple(getattr(module, group[0].attribute).shape)
                found.append((index, Unsupported(group[0].group, shape, type(module).__name__)))
    return found


def _run_as_linears(block: torch.nn.Module, index: int, experts: list[Linear], batches: Batches) -> bool:
    """Whether a token meets an expert of this parameter as a linear [rows, cols]: seen in a run of the block."""
    met: set[str] = set()
    with watched(experts, lambda linear, inputs: met.add(linear.name)):
        batches.run(block, index, 0)
    return bool(met)


def _check_supported(step: Method, beyond: Sequence[tuple[int, Unsupported]], blocks: int) -> None:
    for index, weight in beyond:
        if not step.skips(index, blocks) and (step.selects(weight.name) or step.selects(f"{weight.name}.0")):
            raise SettingsError(
                f"block {index} {weight.name}: {weight.kind} holds {list(weight.shape)} numbers in a form that is not "
                f"supported ([experts, rows, cols] used through F.linear is); leave them dense with linears: "
                f'["*", "!{weight.name}*"]'
            )


def _check_gradients(step: Method, model: torch.nn.Module) -> None:
    if step.needs_gradients and home_of(model) is not None:
        raise SettingsError(
            f"{step.label}: needs gradients of the whole model at once, and this model is streamed block by block; "
            "leave the method out for it"
        )


def _check_skip_blocks(numbers: Sequence[int], blocks: int) -> None:
    for number in numbers:
        if not -blocks <= number < blocks:
            raise SettingsError(f"skip_blocks: expected {-blocks} to {blocks - 1}, got {number}")


def _check_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern.removeprefix("!")) for name in names):
            known = ", ".join(dict.fromkeys(names))
            raise SettingsError(f"linears: '{pattern}' matches no linear of the model; choose from {known[:500]}")
