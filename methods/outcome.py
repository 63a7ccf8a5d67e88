"""What comes of compressing a weight: the values that methods return, the walk hands on and the results table stores.

A method returns a `CompressedWeight`. What that weight costs is a `Measurement` (`methods/inputs/telemetry.py`), and
with the place of the linear and the time it took that is a `LayerReport`, one row of the `layers` table. All three are
made once, complete, and never changed. The hard case is a weight that cannot be had: that is a `CompressionError`, and
never a value.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeAlias

from methods.lazy import torch

HALF_PRECISION_BITS = 16.0  # an uncompressed weight, a scale or a kept outlier is stored in fp16 or bf16

Number: TypeAlias = "float | torch.Tensor"  # a tensor is a scalar that still waits on the weight's device


class CompressionError(RuntimeError):
    """A layer could not be compressed as asked. The message names the block, the linear and the reason."""


@dataclass(frozen=True)
class FittedGroups:
    """The grids that a solver fitted to groups of inputs, for those who store codes: float32 [groups, rows].

    `scale` and `zero` are as they were before they were rounded themselves. Group g holds the inputs
    `order`[g · size : (g + 1) · size], or those at these places where `order` is None.
    """

    scale: torch.Tensor
    zero: torch.Tensor
    order: torch.Tensor | None


@dataclass(frozen=True)
class FittedBlocks:
    """The largest absolute values of blocks of consecutive weights of the flattened matrix, for those who store codes.

    largest: float32 [blocks], or, where they were rounded themselves, their uint8 codes, to which belong `nested`, a
    scale for every 256 of them, and `offset`, their mean.
    """

    largest: torch.Tensor
    nested: torch.Tensor | None = None
    offset: torch.Tensor | None = None


@dataclass(frozen=True)
class CompressedWeight:
    """What takes the place of a weight.

    `weight` is the dense equivalent, [rows, cols]. When `factors` (left [rows, rank], right [rank, cols]) is given, the
    linear holds these two instead. `bits` counts everything stored per weight: codes, grids, outliers; `scale_dtype` is
    the type of the stored scales, where there are any. `loss` is the solver's own objective, where it has one:
    tr[(W−Ŵ)(H+λI)(W−Ŵ)ᵀ]. `fitted`: the grids, where they cannot be found again from the weights. `group_of`: int32
    [cols], the group of every input, where groups are not consecutive inputs. Numbers that a solver finds on the device
    may stay there: whoever measures the weight reads them together with its own, so that the host waits once for all
    weights of an input.
    """

    weight: torch.Tensor
    factors: tuple[torch.Tensor, torch.Tensor] | None = None
    bits: Number = HALF_PRECISION_BITS
    damping: float | None = None
    retries: int = 0
    fallback: str | None = None
    dead_columns: Number = 0
    outlier_share: Number | None = None
    rank: int | None = None
    loss: Number | None = None
    scale_dtype: str | None = None
    fitted: FittedGroups | FittedBlocks | None = None
    group_of: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a compressed weight [rows, cols] costs, and how it came about."""

    rows: int
    cols: int
    relative_error: float | None = None  # ‖(W−Ŵ)X‖² / ‖WX‖²; on the weights alone when the method is data-free
    damping: float | None = None  # share of the mean diagonal
    retries: int = 0
    fallback: str | None = None
    dead_columns: int = 0
    sparsity: float = 0.0
    bits: float = HALF_PRECISION_BITS
    outlier_share: float | None = None
    rank: int | None = None
    tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class LayerReport(Measurement):
    """The measurement of one linear with its place in the model and its time: one row of the `layers` table.

    step: number of the method in a composition. linear: the name inside the block. seconds: of linears that were
    compressed together, each has an equal part.
    """

    step: int
    block: int
    linear: str
    seconds: float

    @classmethod
    def of(cls, measured: Measurement, *, step: int, block: int, linear: str, seconds: float) -> LayerReport:
        """The report of a linear that was measured."""
        return cls(step=step, block=block, linear=linear, seconds=seconds, **vars(measured))

    def as_row(self) -> dict[str, Any]:
        """The report as a row of the `layers` table, without the trial's id."""
        return dataclasses.asdict(self)
