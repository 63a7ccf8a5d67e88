"""Dense weights in memory: loaded once, compressed in place by trials, and given back fresh for every one of them.

Methods change weights, swap linears for factors and fold norms; `restore()` undoes all of it from a copy that stays in
memory or, where every worker on a processor would hold one, from the files (`sweep/weights/stored.py`). The hard cases
are what the loading of transformers forgives and a measurement must not: tensors that are missing, of another shape, or
no numbers (`sweep/checkpoints/integrity.py`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from methods.lazy import torch
from sweep.checkpoints.integrity import refuse_differences, refuse_not_finite, refuse_untied
from sweep.models import ModelRef, context_length, load_tokenizer, local_files, unusable
from sweep.weights.memory import host_memory
from sweep.weights.staging import moved
from sweep.weights.stored import StoredWeight, stored_weights

PINNING = 8  # workers of as many GPUs may each want a pinned copy of their own


class DenseModel:
    """One model in memory: compressed in place by trials, and given back dense by `restore()`."""

    placement = "whole"

    def __init__(self, ref: ModelRef, device: str = "cpu", dtype: str | None = None) -> None:
        import transformers

        self.ref = ref = local_files(ref)
        self.seconds: dict[str, float] = {}  # of each part of this
        chosen = dtype or ref.dtype
        if chosen == "auto" and device == "cpu":
            chosen = "float32"
        with self._timed("reading"):
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
        if device == "cpu":
            _own(model)
        # the page cache holds what is in files, once for all workers: views of them, if the checkpoint has this dtype
        views = {name: weight.data for name, weight in model.named_parameters()} if device != "cpu" else {}
        loaded = stored_weights(ref, model) if device == "cpu" else views
        with self._timed("moving to the device"):
            self.model: Any = moved(model, device).eval().requires_grad_(False)
        with self._timed("looking for numbers that are none"):
            refuse_not_finite(ref.name, self.model.state_dict().items())
        self.device: torch.device = next(self.model.parameters()).device  # "cuda" has become "cuda:0"
        with self._timed("tokenizer"):
            self.tokenizer = load_tokenizer(ref)
        self.max_length = context_length(ref)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.dtype = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        with self._timed("dense copy"):
            self._snapshot = Snapshot(self.model, self.device, loaded=loaded)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[part] = round(time.perf_counter() - began, 3)

    def restore(self) -> None:
        """Give back the dense model in place: the modules as they were, and every weight and buffer exactly."""
        self._snapshot.restore()


class Snapshot:
    """A model as it is now: its modules, and a copy of every weight and buffer that holds data.

    The copy is on the same GPU when half of the free memory holds it, otherwise in the host's memory: pinned, or where
    that would be short what was `loaded` (by the weight's name, before it went to the GPU). `spare_gpu`: always in the
    host's memory. On a processor it is what was `loaded`, a copy of all else.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        device: torch.device,
        *,
        spare_gpu: bool = False,
        loaded: Mapping[str, torch.Tensor | StoredWeight] = MappingProxyType({}),
    ) -> None:
        self.device = device
        self.spare_gpu = spare_gpu
        self._loaded = {id(weight): loaded[name] for name, weight in model.named_parameters() if name in loaded}
        self._modules = [(module, _attributes(module.__dict__)) for module in model.modules()]
        self._copies = self._copy_tensors()

    def restore(self) -> None:
        """Give the model back in place: the modules as they were, and every weight and buffer exactly."""
        for module, state in self._modules:
            module.__dict__.clear()
            module.__dict__.update(_attributes(state))
        with torch.no_grad():
            for tensor, dense in self._copies:
                if isinstance(dense, StoredWeight):
                    dense.put_into(tensor)
                elif tensor.shape == dense.shape and tensor.dtype == dense.dtype and tensor.device == self.device:
                    tensor.copy_(dense, non_blocking=dense.is_pinned())
                else:  # somebody gave the same Parameter other data
                    tensor.data = dense.to(self.device, copy=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _copy_tensors(self) -> list[tuple[torch.Tensor, torch.Tensor | StoredWeight]]:
        tensors: dict[int, torch.Tensor] = {}  # a tied weight is one tensor
        for module, _ in self._modules:
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None and not tensor.is_meta:
                    tensors[id(tensor)] = tensor
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        place = _copies_place(size, self.device, spare_gpu=self.spare_gpu)
        loaded, self._loaded = self._loaded if place == "loaded" else {}, {}
        return [(tensor, _copy(tensor, place, loaded.get(key))) for key, tensor in tensors.items()]


def _copies_place(size: int, device: torch.device, *, spare_gpu: bool) -> str:
    if device.type != "cuda":
        return "loaded"
    return place_of_copy(size, 0 if spare_gpu else torch.cuda.mem_get_info(device)[0], host_memory())


def place_of_copy(size: int, free: int, host: int) -> str:
    """Where the dense copy of so many bytes on a GPU lies: `beside` them where half of what is free there holds it;
    `pinned` in the host's memory; or as it was `loaded`, which workers share, where that memory would be short."""
    if size < free // 2:
        return "beside"
    return "pinned" if size <= host // PINNING else "loaded"


def _copy(tensor: torch.Tensor, place: str, loaded: torch.Tensor | StoredWeight | None) -> torch.Tensor | StoredWeight:
    if place == "beside":
        return tensor.detach().clone()
    if loaded is not None and loaded.dtype == tensor.dtype and loaded.shape == tensor.shape:
        return loaded
    host = tensor.detach().to("cpu", copy=True)
    return host.pin_memory() if place == "pinned" else host


def _own(model: torch.nn.Module) -> None:
    """Copy what is a view of a mapped file, which the first `restore` would do: were the file cut off, the process that
    meets it would be killed."""
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_meta and not tensor.untyped_storage().resizable():  # torch did not allocate it
            tensor.data = tensor.data.clone()


def _attributes(state: Mapping[str, Any]) -> dict[str, Any]:
    """A module's attributes; its dictionaries (parameters, children, hooks) copied one level deep.

    All else stays the very object, such as the configuration, which modules share.
    """
    return {key: copy.copy(value) if isinstance(value, dict) else value for key, value in state.items()}
