"""SpQR's own form: low-bit codes, two-level grids and a few weights as they were, read back by the loader here.

No package reads it, so the weights stand in `spqr.safetensors` (large ones in `spqr-00001.safetensors` and so on),
which transformers does not open; `spqr.json` has the settings and names the linears. docs/export.md lists the tensors.
The grids that the solver fitted must be kept while the model is compressed (`KeptGrids`); codes are found again from
the weights and checked to the bit (`methods/numerics/spqr_codes.py`). The hard case is a weight that another step set
to zero, which is no level of a grid with a real zero point: it would be an outlier of 32 bits, and is refused.

    from sweep.formats.spqr import load
    model = load("FOLDER")
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from calib.settings import SettingsError
from methods.base import Method
from methods.lazy import torch
from methods.numerics.spqr import RealGrid, RoundedStatistics, SpQRRule
from methods.numerics.spqr_codes import SpQRCodes, spqr_codes
from methods.outcome import FittedGroups
from methods.spqr import SpQR
from sweep.formats import factored
from sweep.formats.bits import pack_rows, unpack_rows
from sweep.formats.format import FormatError
from sweep.formats.grids import steps_of
from sweep.formats.kept import KeptFiles

STEM = "spqr"  # of the files with the weights
SETTINGS = "spqr.json"
_SHORT = 2**15  # inputs that a 16-bit number tells apart
_STATISTICS = ("scale", "zero")


def spqr_rule(method: Method) -> SpQRRule | None:
    """The rule of the grids that `method` leaves; None when it leaves none, or a step after or before it prunes."""
    steps = steps_of(method)
    last = steps[-1]
    if not isinstance(last, SpQR) or any(step.prunes for step in steps):
        return None
    return last.rule


class KeptGrids(KeptFiles):
    """The grids of every linear while a model is compressed, each in a file of its own in `folder`: the `witness` of
    `compress_model`, so that no more than those of one linear are in memory."""

    format: ClassVar[str] = STEM
    keeps: ClassVar[type[FittedGroups]] = FittedGroups

    def __init__(self, folder: Path, rule: SpQRRule) -> None:
        super().__init__(folder)
        self.rule = rule

    def packed(self, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is stored of the linear's `weight` [rows, cols]. Raises FormatError when it is not on its grids."""
        kept, share = self._kept(name, weight.device)
        codes = spqr_codes(weight, FittedGroups(kept["scale"], kept["zero"], kept.get("order")), self.rule)
        if len(codes.places) > share * weight.numel() + 0.5:
            raise FormatError(
                f"--format {STEM}: {len(codes.places):,} weights of {name} are on no grid, the method left "
                f"{share * weight.numel():,.0f}; a later step changed them, so use --format dense"
            )
        tensors = _tensors(codes, self.rule)
        back = _codes({key: tensor.cpu() for key, tensor in tensors.items()}, self.rule, weight.dtype).weight()
        if not torch.equal(back, weight.cpu()):
            raise FormatError(f"--format {STEM}: the codes of {name} do not give its weights back")
        return tensors

    def describe(self, linears: Sequence[str], dtype: str) -> dict[str, Any]:
        """`spqr.json`: everything that a loader must know besides the tensors."""
        return {"version": 1, "dtype": dtype, **asdict(self.rule), "linears": list(linears)}


def load(folder: str | os.PathLike[str], device: str = "cpu", *, trust_remote_code: bool = False) -> Any:
    """The model of a folder in the format `spqr`, as a model of plain weights in the type it was measured in.

    trust_remote_code: run the Python files of the folder. Raises SettingsError when the folder is none, or its tensors
    are not those of the model.
    """
    import transformers
    from safetensors.torch import load_file

    place = Path(folder)
    files = sorted(place.glob(f"{STEM}*.safetensors"))
    missing = [name for name in (SETTINGS, "config.json") if not (place / name).is_file()]
    if missing or not files:
        raise SettingsError(
            f"{place}: holds no model in the format spqr, {[*missing, f'{STEM}.safetensors'][0]} is missing"
        )
    described = json.loads((place / SETTINGS).read_text())
    rule = SpQRRule(**{key: described[key] for key in asdict(SpQRRule(4, 16))})
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    dtype = getattr(torch, described["dtype"])
    for linear in described["linears"]:
        parts = {key: tensors.pop(f"{linear}.{key}") for key in _names(rule) if f"{linear}.{key}" in tensors}
        if "codes" in parts:
            tensors[f"{linear}.weight"] = _codes(parts, rule, dtype).weight()
    config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
    model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    factored.fill(model, tensors, place)
    return model.to(device)


def _names(rule: SpQRRule) -> list[str]:
    """The names of all tensors that a linear may have."""
    of_each = [f"{name}{part}" for name in _STATISTICS for part in ("", "_codes", "_scale", "_zero")]
    return ["codes", "shape", "order", *of_each, "outlier_values", "outlier_columns", "outlier_rows"]


def _tensors(codes: SpQRCodes, rule: SpQRRule) -> dict[str, torch.Tensor]:
    """Everything that is stored of a linear [rows, cols]."""
    rows, cols = codes.codes.shape
    number = getattr(torch, rule.scale_dtype)
    index = torch.int16 if cols <= _SHORT else torch.int32
    row, column = codes.places // cols, codes.places % cols
    ends = torch.bincount(row, minlength=rows).cumsum(0)
    stored = {
        "codes": pack_rows(codes.codes, rule.bits),
        "shape": torch.tensor([rows, cols], dtype=torch.int64),
        "outlier_values": codes.values,
        "outlier_columns": column.to(index),
        "outlier_rows": ends.to(torch.int32),
    }
    if codes.order is not None:
        stored["order"] = codes.order.to(index)
    for name in _STATISTICS:
        bits, found = _bits(rule, name), getattr(codes, name)
        if isinstance(found, RoundedStatistics):
            assert bits is not None
            stored[f"{name}_codes"] = pack_rows(found.codes.to(torch.uint8)[None], bits)[0]
            stored[f"{name}_scale"], stored[f"{name}_zero"] = found.grid.scale.to(number), found.grid.zero.to(number)
        else:
            stored[name] = found.to(number)
    return stored


def _codes(stored: Mapping[str, torch.Tensor], rule: SpQRRule, dtype: torch.dtype) -> SpQRCodes:
    """Undo `_tensors`."""
    rows, cols = stored["shape"].tolist()
    ends = stored["outlier_rows"].long()
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    row = torch.arange(rows).repeat_interleave(counts)
    groups = cols // (rule.group_size or cols)
    found: dict[str, Any] = {}
    for name in _STATISTICS:
        bits = _bits(rule, name)
        if bits is None:
            found[name] = stored[name].float()
        else:
            codes = unpack_rows(stored[f"{name}_codes"][None], bits, rows * groups)[0].float()
            grid = RealGrid(stored[f"{name}_scale"].float(), stored[f"{name}_zero"].float(), 2**bits - 1)
            found[name] = RoundedStatistics(codes, grid)
    return SpQRCodes(
        codes=unpack_rows(stored["codes"], rule.bits, cols),
        order=stored["order"].long() if "order" in stored else None,
        places=row * cols + stored["outlier_columns"].long(),
        values=stored["outlier_values"].to(dtype),
        **found,
    )


def _bits(rule: SpQRRule, name: str) -> int | None:
    """Bits of a scale or zero point that is rounded itself; None where it is stored as a number."""
    return rule.scale_bits if name == "scale" else rule.quantized_zero_bits
