"""A model without weights: its modules as transformers builds them from the config, all parameters on the meta device.

What an architecture has, and under which names and shapes, only building it tells; this costs no memory whatever the
size. The same loader that fills a model then says what of a checkpoint would not fit, from the headers alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from calib.settings import SettingsError
from methods.lazy import torch
from sweep.checkpoints.integrity import refuse_differences, refuse_untied
from sweep.checkpoints.tensors import DERIVED, FLOATS, Stored
from sweep.models import ModelRef, unusable
from sweep.weights.tensors import dtype_of

PIECE = 16 << 20  # bytes of two tensors that are compared at a time


def build_skeleton(ref: ModelRef, config: Any, dtype: torch.dtype | None = None) -> Any:
    """The model of a transformers config; parameters hold no data, buffers what the modules compute for them.

    `dtype` is float32 when none is given.

    Raises SettingsError when transformers has no causal language model for it, or cannot build it.
    """
    import transformers

    try:
        with parameters_on_meta():
            return transformers.AutoModelForCausalLM.from_config(
                config, dtype=dtype or torch.float32, trust_remote_code=ref.trust_remote_code
            )
    except Exception as error:  # whatever stands in the config, a class stumbles over it in its own way
        raise unusable(ref, error) from None


def check_headers(ref: ModelRef, skeleton: Any, stored: Mapping[str, Stored]) -> None:
    """Refuse a checkpoint whose tensors are not those of the model, by the loader of transformers itself.

    Raises SettingsError naming a tensor that is missing, unexpected, of another shape, or no floating-point number.
    """
    _refuse_integers(ref, skeleton, stored)
    tensors = {name: _without_data(tensor) for name, tensor in stored.items()}
    try:
        _, found = type(skeleton).from_pretrained(
            None,
            config=skeleton.config,
            state_dict=tensors,
            device_map={"": "meta"},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are refused here, with all others
            output_loading_info=True,
        )
    except Exception as error:  # parts that do not fit together (experts, mostly) are no difference but an error there
        if part := _absent_part(stored):
            found = {"missing_keys": [part], "mismatched_keys": [], "unexpected_keys": []}
        else:
            raise unusable(ref, error) from None
    refuse_differences(ref.name, type(skeleton).__name__, found)
    refuse_untied(
        ref.name, [name for name, other in _tied(skeleton, stored) if not _equal(stored[name], stored[other])]
    )


def _tied(skeleton: Any, stored: Mapping[str, Stored]) -> Iterator[tuple[str, str]]:
    """Pairs of names that are one matrix in the model, and are both stored."""
    for name, other in skeleton.all_tied_weights_keys.items():
        if name in stored and other in stored:
            yield name, other


def _equal(one: Stored, other: Stored) -> bool:
    """Whether two tensors hold the same bytes."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        for start in range(0, one.size, PIECE):
            length = min(PIECE, one.size - start)
            if first.read(length) != second.read(length):
                return False
    return True


def _absent_part(names: Iterable[str]) -> str | None:
    """A name that numbered tensors lack in one place and have in others: `layers.0.experts.2.w1` of experts 0 to 3."""
    places: dict[str, set[str]] = defaultdict(set)  # numbers, by name without its last number
    kinds: dict[str, set[str]] = defaultdict(set)  # numbers, by what stands before it, in any block
    for name in names:
        if match := re.fullmatch(r"(.*\.\d+\..*\.)(\d+)(\..*)", name):
            before, number, after = match.groups()
            places[f"{before}{{}}{after}"].add(number)
            kinds[re.sub(r"\d+", "", before)].add(number)
    for place in sorted(places):
        before = place.partition("{}")[0]
        for number in sorted(kinds[re.sub(r"\d+", "", before)] - places[place], key=int):
            return place.format(number)
    return None


def _without_data(stored: Stored) -> torch.Tensor:
    return torch.empty(stored.shape, dtype=dtype_of(stored.dtype) or torch.float32, device="meta")


def _refuse_integers(ref: ModelRef, skeleton: Any, stored: Mapping[str, Stored]) -> None:
    """Integers and 8-bit floats would be cast without their scales; buffers that are integers in the model are not."""
    whole = {
        name.rpartition(".")[2] for name, tensor in skeleton.state_dict().items() if not tensor.is_floating_point()
    }
    for name, tensor in stored.items():
        if tensor.dtype in (*FLOATS, "BOOL") or DERIVED.search(name) or name.rpartition(".")[2] in whole:
            continue
        raise SettingsError(
            f"models: {ref.name}: {name} is {tensor.dtype} in {tensor.file}, which cannot be computed with (a "
            f"quantized checkpoint?); give weights in {', '.join(FLOATS)}"
        )


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """While open, parameters of new modules are meta tensors; buffers hold what the modules compute for them."""
    register = torch.nn.Module.register_parameter

    def on_meta(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None and not parameter.is_meta:
            module._parameters[name] = as_meta(parameter)  # type: ignore[assignment]

    torch.nn.Module.register_parameter = on_meta  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]


def as_meta(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of its shape and dtype without data; a parameter becomes a parameter."""
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return torch.nn.Parameter(empty, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else empty
