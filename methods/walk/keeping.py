"""Decoder blocks as they were: kept before a walk changes them, and put back one by one.

A method changes weights, folds norms and puts two factors in the place of a linear, so modules are kept beside their
tensors. The hard case is a block that is away (`residency.py`): what it holds while it is resident are other tensors
each time, so new ones take their place when it is put back.
"""

from __future__ import annotations

import copy
from typing import Any

from methods.lazy import torch
from methods.walk.residency import resident

_Slot = tuple[dict[str, Any], str]  # (a module's parameters or buffers, name)


class KeptBlocks:
    """The first `count` blocks of a model as they are now; the copies are in the host's memory."""

    def __init__(self, model: torch.nn.Module, blocks: torch.nn.ModuleList, count: int) -> None:
        self.blocks = blocks
        self._modules = [[(module, _attributes(module)) for module in block.modules()] for block in blocks[:count]]
        self._copies: list[dict[int, torch.Tensor]] = []  # by place of the first slot that holds the tensor
        for index in range(count):
            with resident(model, index, index + 1 if index + 1 < count else None):
                tensors = [slot[name] for slot, name in _slots(blocks[index])]
                places = _first_places(tensors)
                self._copies.append({n: tensors[n].detach().to("cpu", copy=True) for n in sorted(set(places))})
                if index == 0:
                    self.device = next(blocks[index].parameters()).device

    def __len__(self) -> int:
        return len(self._copies)

    def put_back(self, index: int) -> None:
        """Block `index`, which must be resident, is what it was: its modules, and every weight and buffer exactly.

        A forward that is swapped in at the moment (`fused.py`) stays: who swapped it takes it out again.
        """
        for module, attributes in self._modules[index]:
            swapped = {"forward": vars(module)["forward"]} if "forward" in vars(module) else {}
            module.__dict__.clear()
            module.__dict__.update(_copied(attributes) | swapped)
        slots = _slots(self.blocks[index])
        places = _first_places([slot[name] for slot, name in slots])
        made: dict[int, torch.Tensor] = {}
        for (slot, name), place in zip(slots, places, strict=True):
            if place not in made:
                made[place] = self._filled(slot[name], self._copies[index][place])
            slot[name] = made[place]

    def _filled(self, tensor: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """`tensor` with what was kept in it, or a new one in its place where it holds nothing."""
        if tensor.is_meta:
            filled = kept.to(self.device, copy=True)
            parameter = isinstance(tensor, torch.nn.Parameter)
            return torch.nn.Parameter(filled, requires_grad=tensor.requires_grad) if parameter else filled
        if tensor.shape == kept.shape and tensor.dtype == kept.dtype:
            tensor.detach().copy_(kept)
        else:  # somebody gave the same Parameter other data
            tensor.data = kept.to(self.device, copy=True)
        return tensor


def _slots(block: torch.nn.Module) -> list[_Slot]:
    """Every place of the block that holds a tensor, in the order of its modules."""
    return [
        (slot, name)
        for module in block.modules()
        for slot in (module._parameters, module._buffers)
        for name, tensor in slot.items()
        if tensor is not None
    ]


def _first_places(tensors: list[torch.Tensor]) -> list[int]:
    """For each of `tensors`: the place of the first that is the same one."""
    first: dict[int, int] = {}
    return [first.setdefault(id(tensor), place) for place, tensor in enumerate(tensors)]


def _attributes(module: torch.nn.Module) -> dict[str, Any]:
    return _copied(vars(module))


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """A module's attributes; its dictionaries (parameters, children, hooks) copied one level deep."""
    return {key: copy.copy(value) if isinstance(value, dict) else value for key, value in attributes.items()}
