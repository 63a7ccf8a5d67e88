"""Low-rank factors as they are: two small matrices in the place of a linear, and the loader that puts them there.

transformers has no class for such a model, and fills in random numbers where a name is missing, so the weights stand in
`factored.safetensors` (large ones in `factored-00001.safetensors` and so on), which it does not open. Beside it are the
model's own `config.json`, the tokenizer, and `factored.json`, which names the linears. A factor is a linear without a
bias, [cols -> rank], in `NAME.0.weight` [rank, cols]; the other one, [rank -> rows] with the bias, in `NAME.1.weight`
[rows, rank] and `NAME.1.bias`. All other tensors have the names of `state_dict`; of tied ones only the first is there.
No code comes with the folder:

    from sweep.formats.factored import load
    model = load("FOLDER")
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.settings import SettingsError
from methods.lazy import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEM = "factored"  # of the files with the weights
WEIGHTS = f"{STEM}.safetensors"
NAMES = "factored.json"


def load(folder: str | os.PathLike[str], device: str = "cpu", *, trust_remote_code: bool = False) -> Any:
    """The model of a folder in the format `factored`, in the type it was stored in, for inference.

    trust_remote_code: run the Python files of the folder. Raises SettingsError when the folder is none, or its tensors
    are not those of the model.
    """
    import transformers
    from safetensors.torch import load_file

    place = Path(folder)
    files = sorted(place.glob(f"{STEM}*.safetensors"))
    missing = [name for name in (NAMES, "config.json") if not (place / name).is_file()]
    if missing or not files:
        raise SettingsError(f"{place}: holds no model in the format factored, {[*missing, WEIGHTS][0]} is missing")
    described = json.loads((place / NAMES).read_text())
    tensors = {name: tensor for file in files for name, tensor in load_file(file, device=device).items()}
    config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
    dtype = getattr(torch, described["dtype"])
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code).to(
        device
    )
    for name in described["linears"]:
        if f"{name}.0.weight" in tensors and f"{name}.1.weight" in tensors:
            _replace(model, name, tensors)
    fill(model, tensors, place)
    return model


def fill(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor], place: Path) -> None:
    """Make `tensors` the weights of `model`, for inference. Raises SettingsError when they are not those it has."""
    loaded = model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    if wrong := [*loaded.unexpected_keys, *(set(loaded.missing_keys) - tied)]:
        raise SettingsError(f"{place}: the tensors do not fit config.json: {', '.join(sorted(wrong)[:5])}")
    model.requires_grad_(False).eval()


def _replace(model: PreTrainedModel, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Two empty linears of the right shapes in the place of one."""
    right, left = tensors[f"{name}.0.weight"], tensors[f"{name}.1.weight"]
    like: dict[str, Any] = {"device": "meta", "dtype": right.dtype}
    first = torch.nn.Linear(right.shape[1], right.shape[0], bias=False, **like)
    second = torch.nn.Linear(left.shape[1], left.shape[0], bias=f"{name}.1.bias" in tensors, **like)
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, torch.nn.Sequential(first, second))
