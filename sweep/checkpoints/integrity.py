"""A checkpoint that is not the model: tensors that differ from the architecture's, and numbers that are none.

transformers fills what a checkpoint lacks with random numbers, other ones in every process, and drops what it cannot
place. Here both are errors, whoever loads the model. The hard case is what transformers leaves out on purpose: its
classes name such keys, ties make one of two enough, and buffers that older versions saved are computed today.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from calib.settings import SettingsError
from methods.lazy import torch
from sweep.checkpoints.tensors import DERIVED

WHOLE_SET = "give the weights and the config.json that belong together (download or save the model again)"


def refuse_differences(model: str, architecture: str, found: Mapping[str, Any]) -> None:
    """Raise SettingsError when a checkpoint and an architecture do not have the same tensors.

    `found` is what `from_pretrained(..., output_loading_info=True)` tells, with mismatched sizes ignored.
    """
    if missing := sorted(found["missing_keys"]):
        raise SettingsError(
            f"models: {model}: the checkpoint lacks {_first(missing)}, which {architecture} needs; {WHOLE_SET}"
        )
    if mismatched := sorted(found["mismatched_keys"], key=str):
        name, stored, needed = mismatched[0]
        more = f" (and {len(mismatched) - 1} others)" if len(mismatched) > 1 else ""
        raise SettingsError(
            f"models: {model}: {name} is {list(stored)} in the checkpoint{more}, and {architecture} takes "
            f"{list(needed)} by its config.json; {WHOLE_SET}"
        )
    if unexpected := sorted(name for name in found["unexpected_keys"] if not DERIVED.search(name)):
        raise SettingsError(
            f"models: {model}: the checkpoint holds {_first(unexpected)}, which {architecture} does not have by its "
            f"config.json, so another model would be measured; {WHOLE_SET}"
        )


def refuse_untied(model: str, names: Iterable[str]) -> None:
    """Raise SettingsError when the checkpoint holds other numbers for matrices that the config says are one (`names`).

    transformers takes both then, and a model that is streamed would take one.
    """
    if found := sorted(names):
        raise SettingsError(
            f"models: {model}: config.json ties {_first(found)} to another matrix (tie_word_embeddings), and the "
            "checkpoint holds other numbers for each; set tie_word_embeddings to false, or leave the one out that is "
            "not meant"
        )


def refuse_not_finite(model: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise SettingsError naming a parameter or buffer that holds NaN or infinite numbers, and how many."""
    for name, tensor in tensors:
        if not DERIVED.search(name) and (count := count_not_finite(tensor)):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise SettingsError(
                f"models: {model}: {name} has {count:,} numbers of {tensor.numel():,} that are NaN or infinite in "
                f"{dtype}; download or save the model again"
                + (", or give `dtype: bfloat16`, which has the range of float32" if dtype == "float16" else "")
            )


def count_not_finite(tensor: torch.Tensor) -> int:
    """How many of its elements are NaN or infinite, in one pass without a copy when there are none."""
    if not tensor.is_floating_point() or not tensor.numel():
        return 0
    if torch.stack(torch.aminmax(tensor.detach())).isfinite().all():  # NaN shows in both
        return 0
    return int((~tensor.isfinite()).sum())


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} other tensors"
