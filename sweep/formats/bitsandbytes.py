"""`bitsandbytes`, 4 bits: NF4 and FP4 as transformers loads them with that package, in blocks of the flattened matrix.

Two codes stand in a byte, the first in its high half. Beside them are the largest values of the blocks, the tables of
levels, and what else a loader must know as JSON in a tensor of bytes, all under the names that the package gives them.
The largest values are kept while the model is compressed (`kept.py`): of rounded ones 16-bit weights do not tell. Codes
are found again from the weights, and must give them back to the bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from methods.base import Method
from methods.lazy import torch
from methods.nf4 import NF4
from methods.numerics.fourbit import (
    LEVELS,
    NESTED_BLOCK,
    FourBitRule,
    block_codes,
    block_weight,
    largest_values,
    nested_levels,
)
from methods.outcome import FittedBlocks
from sweep.formats.format import FormatError
from sweep.formats.grids import steps_of
from sweep.formats.kept import KeptFiles

NAME = "bitsandbytes"
STATE = "weight.quant_state.bitsandbytes__"  # followed by the type of the levels
LOADERS = "transformers with the packages bitsandbytes and accelerate"


def fourbit_rule(method: Method) -> FourBitRule | None:
    """The rule of the blocks that `method` leaves; None unless its last step makes them, and no other ones are."""
    steps = steps_of(method)
    rules = {step.rule for step in steps if isinstance(step, NF4)}
    last = steps[-1]
    return last.rule if isinstance(last, NF4) and len(rules) == 1 else None


class KeptBlocks(KeptFiles):
    """The largest values of the blocks of every linear while a model is compressed, each in a file of its own in
    `folder`: the `witness` of `compress_model`."""

    format: ClassVar[str] = NAME
    keeps: ClassVar[type[FittedBlocks]] = FittedBlocks

    def __init__(self, folder: Path, rule: FourBitRule) -> None:
        super().__init__(folder)
        self.rule = rule

    def packed(self, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is stored of the linear's `weight` [rows, cols]. Raises FormatError when it is not on these levels."""
        kept, _ = self._kept(name, weight.device)
        fitted = FittedBlocks(**kept)
        codes = block_codes(weight, largest_values(fitted), self.rule)
        tensors = _tensors(codes, fitted, self.rule, weight)
        if not torch.equal(weight_of({key: part.cpu() for key, part in tensors.items()}), weight.cpu()):
            raise FormatError(
                f"--format {NAME}: {name} is not on the levels that the method left; a later step changed it, so use "
                "--format dense"
            )
        return tensors

    def describe(self, linears: Sequence[str], dtype: str) -> dict[str, Any]:
        """The `quantization_config` of a model, less the linears that stay dense."""
        return {
            "quant_method": NAME,
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": self.rule.quant_type,
            "bnb_4bit_use_double_quant": self.rule.double_quant,
            "bnb_4bit_compute_dtype": dtype,
            "bnb_4bit_quant_storage": "uint8",
        }


def weight_of(stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The weight [rows, cols] of what is stored of a linear, in the type that it was measured in."""
    key = next(name for name in stored if name.startswith(STATE))
    said = json.loads(bytes(stored[key].tolist()))
    rule = FourBitRule(said["quant_type"], said["blocksize"], "nested_blocksize" in said)
    nested = stored.get("weight.nested_absmax")
    offset = None if nested is None else torch.tensor(said["nested_offset"], dtype=torch.float32)
    largest = largest_values(FittedBlocks(stored["weight.absmax"], nested, offset))
    rows, cols = said["shape"]
    packed = stored["weight"].flatten()
    codes = torch.stack([packed >> 4, packed & 15], 1).flatten()[: rows * cols]
    return block_weight(codes, largest, rule, (rows, cols)).to(getattr(torch, said["dtype"]))


def unpacked(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint with a plain weight in the place of the parts of every packed linear."""
    linears = {name.partition(f".{STATE}")[0] for name in tensors if f".{STATE}" in name}
    found = dict(tensors)
    for linear in linears:
        parts = [name for name in tensors if name.startswith(f"{linear}.weight")]
        stored = {name.removeprefix(f"{linear}."): found.pop(name) for name in parts}
        found[f"{linear}.weight"] = weight_of(stored)
    return found


def _tensors(
    codes: torch.Tensor, fitted: FittedBlocks, rule: FourBitRule, weight: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Everything that is stored of a linear, by the names of the package."""
    pairs = torch.nn.functional.pad(codes, (0, len(codes) % 2)).view(-1, 2)
    said: dict[str, Any] = {
        "quant_type": rule.quant_type,
        "blocksize": rule.block_size,
        "dtype": str(weight.dtype).removeprefix("torch."),
        "shape": list(weight.shape),
    }
    stored = {
        "weight": (pairs[:, 0] << 4 | pairs[:, 1]).unsqueeze(1),
        "weight.absmax": fitted.largest,
        "weight.quant_map": torch.tensor(LEVELS[rule.quant_type]),
    }
    if fitted.nested is not None and fitted.offset is not None:
        said |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": fitted.offset.item()}
        stored |= {"weight.nested_absmax": fitted.nested, "weight.nested_quant_map": nested_levels()}
    text = json.dumps(said).encode()
    return {**stored, f"{STATE}{rule.quant_type}": torch.tensor(list(text), dtype=torch.uint8)}
