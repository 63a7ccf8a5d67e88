"""A shipped folder of any format as a model of plain weights, where the usual loader is not to be had.

transformers reads `dense` folders itself, and packed ones with packages that come and go. Here the codes are multiplied
out in torch alone: a model as large as the dense one, whose weights are those that were evaluated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calib.settings import SettingsError
from methods.lazy import torch
from sweep.formats import bitsandbytes, factored, spqr
from sweep.formats.catalog import BITSANDBYTES, PACKED
from sweep.formats.format import Format


def load(folder: str | os.PathLike[str], device: str = "cpu", *, trust_remote_code: bool = False) -> Any:
    """The model of a folder that `sweep.export` or `sweep.compress` wrote, in the type it was stored in, for inference.

    trust_remote_code: run the Python files of the folder. Raises SettingsError for a folder of another kind, whose
    tensors do not fit its config.json, or with a file of tensors that is cut or damaged.
    """
    from safetensors import SafetensorError

    try:
        return _load(Path(folder), device, trust_remote_code)
    except SafetensorError as error:
        raise SettingsError(
            f"{folder}: a file of tensors is damaged ({error}); copy or export the folder again"
        ) from None


def _load(place: Path, device: str, trust_remote_code: bool) -> Any:
    import transformers

    if (place / factored.NAMES).is_file():
        return factored.load(place, device, trust_remote_code=trust_remote_code)
    if (place / spqr.SETTINGS).is_file():
        return spqr.load(place, device, trust_remote_code=trust_remote_code)
    if not (place / "config.json").is_file():
        raise SettingsError(f"{place}: holds no model, config.json is missing")
    described = json.loads((place / "config.json").read_text()).get("quantization_config")
    if described is None:
        dense: Any = transformers.AutoModelForCausalLM.from_pretrained(
            place, dtype="auto", trust_remote_code=trust_remote_code
        )
        return dense.to(device).requires_grad_(False).eval()
    name = described.get("quant_method")
    known = (*PACKED, BITSANDBYTES)
    if name not in known or (name == BITSANDBYTES and not described.get("load_in_4bit")):
        raise SettingsError(f"{place}: quant_method is {name!r}, not {' or '.join(known)} (4 bits)")
    config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
    del config.quantization_config
    model: Any = transformers.AutoModelForCausalLM.from_config(
        config, dtype=config.dtype, trust_remote_code=trust_remote_code
    )
    stored = stored_tensors(place)
    plain = bitsandbytes.unpacked(stored) if name == BITSANDBYTES else unpacked(stored, PACKED[name], described)
    factored.fill(model, plain, place)
    return model.to(device)


def unpacked(tensors: Mapping[str, torch.Tensor], packed: Format, config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint with a weight in the place of the parts of every packed linear."""
    linears = {name.removesuffix(f".{packed.mark}") for name in tensors if name.endswith(f".{packed.mark}")}
    found: dict[str, torch.Tensor] = {}
    parts: dict[str, dict[str, torch.Tensor]] = {name: {} for name in linears}
    for name, tensor in tensors.items():
        linear, _, part = name.rpartition(".")
        if linear in linears and part != "bias":
            parts[linear][part] = tensor
        else:
            found[name] = tensor
    for linear, stored in parts.items():
        # laid out as a loader leaves it: products of other layouts are rounded in another order
        found[f"{linear}.weight"] = packed.codes(stored, packed.grid(config, linear)).weight().contiguous()
    return found


def stored_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's safetensors files, by name."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
