"""Dense weights in memory: loaded once, compressed in place by trials, and given back fresh for every one of them.

Methods change weights, swap linears for factors and fold norms; `restore()` undoes all of it from a copy that stays in
memory. The hard cases are what the loading of transformers forgives and a measurement must not: tensors that are
missing, of another shape, or no numbers (`sweep/checkpoints/integrity.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from methods.lazy import torch
from sweep.checkpoints.integrity import refuse_differences, refuse_not_finite, refuse_untied
from sweep.models import ModelRef, context_length, load_tokenizer, local_files, unusable


class DenseModel:
    """One model in memory: compressed in place by trials, and given back dense by `restore()`."""

    placement = "whole"

    def __init__(self, ref: ModelRef, device: str = "cpu", dtype: str | None = None) -> None:
        import transformers

        self.ref = ref = local_files(ref)
        chosen = dtype or ref.dtype
        if chosen == "auto" and device == "cpu":
            chosen = "float32"
        try:
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                ref.path,
                revision=ref.revision,
                dtype=chosen,
                trust_remote_code=ref.trust_remote_code,
                ignore_mismatched_sizes=True,  # they are refused below, with all others
                output_loading_info=True,
            )
        except (OSError, ValueError) as error:
            raise unusable(ref, error) from None
        model, found = loaded
        refuse_differences(ref.name, type(model).__name__, found)
        refuse_untied(ref.name, set(model.get_expanded_tied_weights_keys(True)) - set(model.all_tied_weights_keys))
        self.model: Any = model.to(device).eval().requires_grad_(False)
        refuse_not_finite(ref.name, self.model.state_dict().items())
        self.device: torch.device = next(self.model.parameters()).device  # "cuda" has become "cuda:0"
        self.tokenizer = load_tokenizer(ref)
        self.max_length = context_length(ref)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.dtype = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        self._snapshot = Snapshot(self.model, self.device)

    def restore(self) -> None:
        """Give back the dense model in place: the modules as they were, and every weight and buffer exactly."""
        self._snapshot.restore()


class Snapshot:
    """A model as it is now: its modules, and a copy of every weight and buffer that holds data.

    The copy is on the same GPU when half of the free memory holds it, otherwise in the host's memory (pinned when the
    model is on a GPU). `spare_gpu`: always there.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device, *, spare_gpu: bool = False) -> None:
        self.device = device
        self.spare_gpu = spare_gpu
        self._modules = [(module, _attributes(module.__dict__)) for module in model.modules()]
        self._copies = self._copy_tensors()

    def restore(self) -> None:
        """Give the model back in place: the modules as they were, and every weight and buffer exactly."""
        for module, state in self._modules:
            module.__dict__.clear()
            module.__dict__.update(_attributes(state))
        with torch.no_grad():
            for tensor, dense in self._copies:
                if tensor.shape == dense.shape and tensor.dtype == dense.dtype and tensor.device == self.device:
                    tensor.copy_(dense, non_blocking=dense.is_pinned())
                else:  # somebody gave the same Parameter other data
                    tensor.data = dense.to(self.device, copy=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _copy_tensors(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        tensors: dict[int, torch.Tensor] = {}  # a tied weight is one tensor
        for module, _ in self._modules:
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None and not tensor.is_meta:
                    tensors[id(tensor)] = tensor
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        on_gpu = self.device.type == "cuda"
        keep_on_gpu = on_gpu and not self.spare_gpu and size < torch.cuda.mem_get_info(self.device)[0] // 2
        pairs = []
        for tensor in tensors.values():
            dense = tensor.detach().clone() if keep_on_gpu or not on_gpu else tensor.detach().cpu().pin_memory()
            pairs.append((tensor, dense))
        return pairs


def _attributes(state: Mapping[str, Any]) -> dict[str, Any]:
    """A module's attributes; its dictionaries (parameters, children, hooks) copied one level deep.

    All else stays the very object, such as the configuration, which modules share.
    """
    return {key: copy.copy(value) if isinstance(value, dict) else value for key, value in state.items()}
