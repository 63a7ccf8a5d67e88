"""The format of GPTQ checkpoints (AutoGPTQ, GPTQModel): read by vLLM's Marlin and ExLlama kernels, and GPTQModel.

Codes are packed along the inputs, zero points along the outputs. The first version of the format stores zero points
less one, which a zero point of 0 does not survive; models that need it are written as `gptq_v2`, which stores them as
they are. `g_idx` names the group of every input; it is trivial but where groups were fitted in another order of the
inputs, which `desc_act` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from methods.lazy import torch
from methods.numerics.codes import Codes
from sweep.formats.bits import pack_rows, unpack_rows
from sweep.formats.format import GridSpec, refuse_float32

_BITS = (2, 3, 4, 8)
_WORD = 32


class GPTQFormat:
    """GPTQ's own format. Symmetric models are written as version 1, which everything reads, others as version 2."""

    name: ClassVar[str] = "gptq"
    mark: ClassVar[str] = "qweight"

    def loaders(self, grids: Sequence[GridSpec]) -> str:
        """Marlin's kernels know symmetric grids of 4 and 8 bits; newer versions of vLLM refuse `desc_act`."""
        if any(grid.scattered for grid in grids):
            return "transformers with the package gptqmodel, and earlier versions of vLLM (0.32 refuses desc_act)"
        if all(grid.sym and grid.bits in (4, 8) for grid in grids):
            return "vLLM (Marlin), and transformers with the package gptqmodel"
        return (
            "transformers with the package gptqmodel, and earlier versions of vLLM with ExLlama kernels (0.32 has none)"
        )

    def refuses_grid(self, grid: GridSpec, dtype: str) -> str | None:
        """Kernels know four widths and 16-bit numbers."""
        if grid.bits not in _BITS:
            return f"it knows {', '.join(map(str, _BITS))} bits"
        return refuse_float32(dtype)

    def refuses_shape(self, grid: GridSpec, rows: int, cols: int) -> str | None:
        """Codes of both sides fill whole words."""
        for size, side in ((cols, "inputs"), (rows, "outputs")):
            if size * grid.bits % _WORD:
                return f"{size} {side} of {grid.bits} bits do not fill whole words of {_WORD} bits"
        return None

    def refuses_mix(self, grids: Sequence[GridSpec]) -> str | None:
        """A model has one version of the format."""
        return "symmetric and other grids need two versions of it" if len({grid.sym for grid in grids}) > 1 else None

    def tensors(self, codes: Codes) -> dict[str, torch.Tensor]:
        """qweight int32 [words, rows], qzeros [groups, words], scales [groups, rows] and g_idx [cols]."""
        zero = codes.zero.T
        group_of = codes.group_of
        if group_of is None:
            group_of = torch.arange(codes.codes.shape[1], dtype=torch.int32) // codes.group_size
        return {
            "qweight": pack_rows(codes.codes, codes.bits).T.contiguous(),
            "qzeros": pack_rows(zero - 1 if codes.sym else zero, codes.bits),
            "scales": codes.scale.T.contiguous(),
            "g_idx": group_of.contiguous(),
        }

    def config(self, grids: Mapping[str, GridSpec], dense: Sequence[str]) -> dict[str, Any]:
        """The most frequent grid, and `dynamic` rules for linears on others or on none."""
        kinds = list(grids.values())
        usual = max(dict.fromkeys(kinds), key=kinds.count)
        dynamic: dict[str, Any] = {f"-:^{_literal(name)}$": {} for name in dense}
        for name, grid in grids.items():
            if grid != usual:
                dynamic[f"+:^{_literal(name)}$"] = {
                    "bits": grid.bits,
                    "group_size": -1 if grid.group_size is None else grid.group_size,
                    "sym": grid.sym,
                }
        return {
            "quant_method": "gptq",
            "bits": usual.bits,
            "group_size": -1 if usual.group_size is None else usual.group_size,
            "sym": usual.sym,
            "desc_act": any(grid.scattered for grid in kinds),
            "checkpoint_format": "gptq" if usual.sym else "gptq_v2",
            "pack_dtype": "int32",
            "lm_head": False,
            **({"dynamic": dynamic} if dynamic else {}),
        }

    def grid(self, config: Mapping[str, Any], linear: str) -> GridSpec:
        """The usual grid, or that of the linear's own rule; `desc_act` is said of all linears together."""
        found = {**config, **config.get("dynamic", {}).get(f"+:^{_literal(linear)}$", {})}
        size = None if found["group_size"] == -1 else found["group_size"]
        return GridSpec(found["bits"], found["sym"], size, found["desc_act"])

    def codes(self, stored: Mapping[str, torch.Tensor], grid: GridSpec) -> Codes:
        """Undo `tensors`."""
        cols, rows = len(stored["g_idx"]), stored["scales"].shape[1]
        zero = unpack_rows(stored["qzeros"], grid.bits, rows).T
        codes = unpack_rows(stored["qweight"].T, grid.bits, cols)
        group_of = stored["g_idx"] if grid.scattered else None
        return Codes(codes, stored["scales"].T, zero + 1 if grid.sym else zero, grid.bits, grid.sym, group_of)


def _literal(name: str) -> str:
    return name.replace(".", r"\.")
