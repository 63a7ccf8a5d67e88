"""Where the tensors of a model lie in the files of its checkpoint, under the names that transformers gives to its keys.

The hard case is a tensor that transformers computes from several keys while it loads (fused experts): no one place is
its own, and it is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from calib.settings import SettingsError
from methods.lazy import torch
from sweep.checkpoints.tensors import Stored
from sweep.weights.tensors import DataFile, Source, source_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def find_sources(model: PreTrainedModel, stored: dict[str, Stored]) -> dict[str, Source]:
    """Where every parameter and persistent buffer of the model lies, by the first of its names.

    Raises SettingsError naming the first one that the checkpoint lacks, or has in another shape.
    """
    names: dict[int, list[str]] = {}
    tensors: dict[int, torch.Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor
    renamed, converted = _renamed(model, stored)
    files: dict[Path, DataFile] = {}
    sources: dict[str, Source] = {}
    for key, aliases in names.items():
        there = next((name for name in aliases if name in renamed), None)
        if there is None:
            why = "is stored in parts that must be converted" if set(aliases) & converted else "is missing"
            raise SettingsError(
                f"models: {aliases[0]} ({list(tensors[key].shape)}) {why} in the checkpoint of {type(model).__name__}, "
                "so the model cannot be streamed; use placement: whole"
            )
        sources[aliases[0]] = source_of(stored[renamed[there]], tensors[key], aliases[0], files)
    return sources


def _renamed(model: PreTrainedModel, stored: dict[str, Stored]) -> tuple[dict[str, str], set[str]]:
    """(key of the checkpoint by name in the model, names that transformers would compute from several keys)."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    known = model.state_dict()
    prefix = model.base_model_prefix
    found: dict[str, str] = {}
    converted: set[str] = set()
    for key in sorted(stored, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, known)
        if name not in known and key in known:
            name, pattern = rename_source_key(key, [], [], prefix, known)
        if pattern is not None:
            converted.add(name)
        elif name in known:
            found[name] = key
    return {name: key for name, key in found.items() if name not in converted}, converted
