"""What a checkpoint format is: which linears it can hold, the tensors of one, and what config.json says about it.

A format is one file in this folder. It gets codes and scales that reproduce the weights of the model to the bit
(`methods/numerics/codes.py`), so nothing is rounded here. What it cannot hold it refuses before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from methods.lazy import torch
from methods.numerics.codes import Codes


@dataclass(frozen=True)
class GridSpec:
    """The grid that a linear's weights are on: 2^`bits` levels a row and `group_size` inputs (None: all inputs).

    scattered: the inputs of a group do not stand together. group_of: int32 [cols], the group of every input of the one
    linear then; it is no part of what kind of grid this is, and None where no linear is meant.
    """

    bits: int
    sym: bool
    group_size: int | None
    scattered: bool = False
    group_of: torch.Tensor | None = field(default=None, compare=False, repr=False)

    def describe(self) -> str:
        """`4-bit g128 sym`."""
        group = "" if self.group_size is None else f" g{self.group_size}"
        return f"{self.bits}-bit{group}{' sym' if self.sym else ''}{' act-order' if self.scattered else ''}"


class FormatError(ValueError):
    """A model that a format cannot hold. The message names the linear, the reason, and what can hold it."""


class Format(Protocol):
    """A way to store quantized linears."""

    name: ClassVar[str]  # in --format, and `quant_method` in config.json
    mark: ClassVar[str]  # name of the tensor of codes behind the name of a packed linear

    def loaders(self, grids: Sequence[GridSpec]) -> str:
        """Who reads a model on these grids, for cards."""
        ...

    def refuses_grid(self, grid: GridSpec, dtype: str) -> str | None:
        """Why no linear on `grid` of a model in `dtype` can be stored, or None: known before the model is loaded."""
        ...

    def refuses_shape(self, grid: GridSpec, rows: int, cols: int) -> str | None:
        """Why a linear [rows, cols] on `grid` cannot be stored; None when it can."""
        ...

    def refuses_mix(self, grids: Sequence[GridSpec]) -> str | None:
        """Why linears on several different `grids` cannot be stored in one model; None when they can."""
        ...

    def tensors(self, codes: Codes) -> dict[str, torch.Tensor]:
        """What is stored instead of `weight`, by the names that follow the linear's."""
        ...

    def config(self, grids: Mapping[str, GridSpec], dense: Sequence[str]) -> dict[str, Any]:
        """The `quantization_config` of a model whose linears by name are on `grids`; `dense` ones stay as they are."""
        ...

    def grid(self, config: Mapping[str, Any], linear: str) -> GridSpec:
        """Undo `config` for one packed linear; where it does not say that a grid is symmetric, it is taken for none."""
        ...

    def codes(self, stored: Mapping[str, torch.Tensor], grid: GridSpec) -> Codes:
        """Undo `tensors`."""
        ...


def refuse_float32(dtype: str) -> str | None:
    """What the formats of 16-bit kernels say of a model in float32."""
    if dtype == "float32":
        return "its kernels compute in 16 bits and the model was measured in float32 (give the model dtype: float16)"
    return None
