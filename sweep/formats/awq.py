"""The format of AWQ checkpoints (AutoAWQ): 4-bit codes with zero points, read by vLLM.

Codes and zero points are packed along the outputs, eight in a word, in the order 0 2 4 6 1 3 5 7 that its kernels
unpack fastest. Scales that AWQ folds into the norms are in the model's weights already, so nothing else is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from methods.lazy import torch
from methods.numerics.codes import Codes
from sweep.formats.bits import pack_rows, unpack_rows
from sweep.formats.format import GridSpec, refuse_float32

_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_PER_WORD = len(_ORDER)


class AWQFormat:
    """AutoAWQ's `gemm` version."""

    name: ClassVar[str] = "awq"
    mark: ClassVar[str] = "qweight"

    def loaders(self, grids: Sequence[GridSpec]) -> str:
        """Symmetric or not is the same to it."""
        return "vLLM (AWQ and Marlin kernels), and transformers with the package gptqmodel"

    def refuses_grid(self, grid: GridSpec, dtype: str) -> str | None:
        """4 bits and 16-bit numbers; the group of an input follows from its place."""
        if grid.bits != 4:
            return "it knows 4 bits"
        if grid.scattered:
            return (
                "act_order with groups that are fitted on the way puts inputs together that do not stand together, and "
                "it has no g_idx (measure it with static_groups: true)"
            )
        return refuse_float32(dtype)

    def refuses_shape(self, grid: GridSpec, rows: int, cols: int) -> str | None:
        """Outputs in eights."""
        return f"{rows} outputs are no multiple of {_PER_WORD}" if rows % _PER_WORD else None

    def refuses_mix(self, grids: Sequence[GridSpec]) -> str | None:
        """config.json states one grid for all."""
        return "it holds one grid for all linears"

    def tensors(self, codes: Codes) -> dict[str, torch.Tensor]:
        """qweight int32 [cols, rows / 8], qzeros [groups, rows / 8], scales [groups, rows]."""
        return {
            "qweight": pack_rows(_ordered(codes.codes.T), codes.bits),
            "qzeros": pack_rows(_ordered(codes.zero.T), codes.bits),
            "scales": codes.scale.T.contiguous(),
        }

    def config(self, grids: Mapping[str, GridSpec], dense: Sequence[str]) -> dict[str, Any]:
        """Zero points are always stored; a symmetric grid has the one in the middle."""
        (grid,) = set(grids.values())
        return {
            "quant_method": "awq",
            "bits": 4,
            "group_size": -1 if grid.group_size is None else grid.group_size,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": list(dense) or None,
        }

    def grid(self, config: Mapping[str, Any], linear: str) -> GridSpec:
        """The one grid of the model."""
        return GridSpec(config["bits"], False, None if config["group_size"] == -1 else config["group_size"])

    def codes(self, stored: Mapping[str, torch.Tensor], grid: GridSpec) -> Codes:
        """Undo `tensors`."""
        rows = stored["scales"].shape[1]
        codes, zero = (unpack_rows(stored[name], grid.bits, rows) for name in ("qweight", "qzeros"))
        return Codes(_restored(codes).T, stored["scales"].T, _restored(zero).T, grid.bits, grid.sym)


def _ordered(codes: torch.Tensor) -> torch.Tensor:
    """Codes [n, rows] with every eight of a row in the order of the kernels."""
    return codes.unflatten(1, (-1, _PER_WORD))[:, :, list(_ORDER)].flatten(1)


def _restored(codes: torch.Tensor) -> torch.Tensor:
    """Undo `_ordered`."""
    places = [_ORDER.index(place) for place in range(_PER_WORD)]
    return codes.unflatten(1, (-1, _PER_WORD))[:, :, places].flatten(1)
