"""`compressed-tensors`, pack-quantized: what llm-compressor writes, read by vLLM and (with that package) transformers.

Codes are stored with an offset of 2^(bits − 1), 32 of them in `bits` words along the inputs; zero points along the
outputs. A loader computes (code − zero) · scale in the type of the scale, which is why scales have the model's. Where
groups are not consecutive inputs (`actorder: group`), `weight_g_idx` names the group of every input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from methods.lazy import torch
from methods.numerics.codes import Codes
from sweep.formats.bits import pack_rows, unpack_rows
from sweep.formats.format import GridSpec


class CompressedTensors:
    """The format of the package `compressed-tensors`, for integer weights of 2 to 8 bits."""

    name: ClassVar[str] = "compressed-tensors"
    mark: ClassVar[str] = "weight_packed"

    def loaders(self, grids: Sequence[GridSpec]) -> str:
        """transformers cannot read several grids with zero points (`_dequantized`), nor package 0.19 `g_idx`."""
        if any(grid.scattered for grid in grids):
            version = "" if all(grid.sym for grid in grids) else " 5.19"
            return f"transformers{version} with the package compressed-tensors 0.18 (0.19 and vLLM 0.32 refuse g_idx)"
        kernels = ["vLLM"] if all(grid.bits in (4, 8) for grid in grids) else []
        package = "transformers with the package compressed-tensors (0.18 or newer)"
        if len(grids) > 1 and not all(grid.sym for grid in grids):
            package = (
                "transformers 5.19 with the package compressed-tensors (5.24 refuses zero points of several grids)"
            )
        return ", ".join([*kernels, package])

    def refuses_grid(self, grid: GridSpec, dtype: str) -> str | None:
        """Every grid of up to 8 bits fits."""
        return None

    def refuses_shape(self, grid: GridSpec, rows: int, cols: int) -> str | None:
        """The last word of a row is filled with zeros."""
        return None

    def refuses_mix(self, grids: Sequence[GridSpec]) -> str | None:
        """Every linear may have its own grid."""
        return None

    def tensors(self, codes: Codes) -> dict[str, torch.Tensor]:
        """weight_packed int32 [rows, words], weight_scale [rows, groups], weight_shape; zero points if asymmetric.

        weight_g_idx int32 [cols] where groups are not consecutive inputs.
        """
        stored = {
            "weight_packed": pack_rows(codes.codes, codes.bits),
            "weight_scale": codes.scale.contiguous(),
            "weight_shape": torch.tensor(codes.codes.shape, dtype=torch.int64),
        }
        if not codes.sym:
            stored["weight_zero_point"] = pack_rows(codes.zero.T, codes.bits).T.contiguous()
        if codes.group_of is not None:
            stored["weight_g_idx"] = codes.group_of.contiguous()
        return stored

    def config(self, grids: Mapping[str, GridSpec], dense: Sequence[str]) -> dict[str, Any]:
        """One group of linears for every grid; a single grid applies to all linears but the dense ones."""
        kinds = list(dict.fromkeys(grids.values()))
        groups = {}
        for number, kind in enumerate(kinds):
            names = ["Linear"] if len(kinds) == 1 else [name for name, grid in grids.items() if grid == kind]
            groups[f"group_{number}"] = {
                "targets": names,
                "weights": {
                    "num_bits": kind.bits,
                    "type": "int",
                    "symmetric": kind.sym,
                    "strategy": "channel" if kind.group_size is None else "group",
                    "group_size": kind.group_size,
                    "dynamic": False,
                    **({"actorder": "group"} if kind.scattered else {}),
                },
            }
        return {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": list(dense),
            **({"dequantize": True} if _dequantized(kinds) else {}),
        }

    def grid(self, config: Mapping[str, Any], linear: str) -> GridSpec:
        """That of the group that names the linear, or all linears."""
        groups = config["config_groups"].values()
        found = next(group["weights"] for group in groups if {linear, "Linear"} & set(group["targets"]))
        scattered = found.get("actorder") == "group"
        return GridSpec(found["num_bits"], found["symmetric"], found["group_size"], scattered)

    def codes(self, stored: Mapping[str, torch.Tensor], grid: GridSpec) -> Codes:
        """Undo `tensors`."""
        rows, cols = stored["weight_shape"].tolist()
        scale = stored["weight_scale"]
        zero = torch.full(scale.shape, 2 ** (grid.bits - 1), dtype=torch.uint8)
        if not grid.sym:
            zero = unpack_rows(stored["weight_zero_point"].T, grid.bits, rows).T
        codes = unpack_rows(stored["weight_packed"], grid.bits, cols)
        return Codes(codes, scale, zero, grid.bits, grid.sym, stored.get("weight_g_idx"))


def _dequantized(kinds: Sequence[GridSpec]) -> bool:
    """Whether transformers must multiply the codes out while it loads them, rather than before the first call.

    It prepares an empty model of packed linears otherwise, in which versions 0.18 to 0.20 of the package leave zero
    points unpacked (`PackedQuantizationCompressor.compress` returns early for the meta device), so that those of the
    checkpoint do not fit. Of several grids it would take the first for all, and without `weight_g_idx`, which it does
    not pass on, it would compute other weights. vLLM does not look at the key.
    """
    return len(kinds) == 1 and not kinds[0].sym and not kinds[0].scattered
