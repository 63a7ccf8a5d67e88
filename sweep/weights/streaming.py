"""Models larger than the GPU: a skeleton without weights, whose blocks are read from safetensors when they are needed.

`StreamedModel` stands where `DenseModel` stands. Embeddings, final norm, positions and the head are on the device for
good; decoder blocks are structures of meta tensors that `sweep/weights/blocks.py` fills one at a time. Weights are
found under the names that transformers itself gives to the keys of a checkpoint. The hard cases are told before
anything runs: a weight that is missing or shaped otherwise, a checkpoint that must be converted while it is loaded
(fused experts), and a file that was cut off.
"""

from __future__ import annotations

import shutil
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.settings import SettingsError
from calib.tokenizer import TOKENIZER_FILES
from methods.lazy import torch
from methods.walk.decoder import decoder_blocks
from methods.walk.residency import device_memory
from sweep.checkpoints.integrity import refuse_not_finite
from sweep.checkpoints.tensors import INDEX, SINGLE, Stored, checkpoint_files, checkpoint_tensors, indexed_files
from sweep.models import ModelRef, context_length, load_config, load_tokenizer, local_files, unreachable
from sweep.weights.blocks import StreamedBlocks
from sweep.weights.dense import DenseModel, Snapshot
from sweep.weights.memory import host_memory
from sweep.weights.skeleton import as_meta, build_skeleton, check_headers
from sweep.weights.sources import find_sources
from sweep.weights.tensors import Source, dtype_of, read_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WORKING_ROOM = 8 << 30  # bytes that a trial of a model held whole needs besides its weights, at the least


def load_dense(ref: ModelRef, device: str = "cpu") -> DenseModel | StreamedModel:
    """The dense model on `device` (`cpu` or `cuda`), whole or streamed as `ref.placement` says."""
    streamed = ref.placement == "streamed" or (ref.placement == "auto" and device == "cuda" and _too_large(ref))
    return StreamedModel(ref, device) if streamed else DenseModel(ref, device)


class StreamedModel:
    """One model that is on the device only in part: compressed block by block, given back dense by `restore()`."""

    placement = "streamed"

    def __init__(self, ref: ModelRef, device: str = "cpu", scratch: str | None = None) -> None:
        """scratch: the folder for compressed blocks, the system's temporary one when None. Raises SettingsError."""
        self.ref = ref
        self.seconds: dict[str, float] = {}  # blocks are read when they are needed
        folder = local_folder(ref)
        stored = checkpoint_tensors(folder) if folder else {}
        if folder is None or not stored:
            raise SettingsError(f"models: {ref.name} has no safetensors weights; convert them, or use placement: whole")
        config = load_config(ref)
        dtype = _dtype(ref, config, stored, device)
        model = build_skeleton(ref, config, dtype)
        check_headers(ref, model, stored)
        self.model: Any = model.eval().requires_grad_(False)
        _refuse_special(self.model, config, dtype)
        on_gpu = device == "cuda"
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device(device)
        blocks = decoder_blocks(self.model)
        sources = sources_of_streamed(self.model, stored)
        _fill_outside(self.model, blocks, sources, self.device)
        here = [(name, weight) for name, weight in self.model.state_dict().items() if not weight.is_meta]
        refuse_not_finite(ref.name, here)  # those of a block as soon as it is read
        self.blocks = StreamedBlocks(self.model, blocks, sources, self.device, scratch, ref.name)
        _check_scratch(self.blocks)
        self.model.block_home = self.blocks
        self.tokenizer = load_tokenizer(ref)
        self.max_length = context_length(ref)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.dtype = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        self._snapshot = Snapshot(self.model, self.device, spare_gpu=True)

    def restore(self) -> None:
        """Give back the dense model: modules as they were, and every block as its files have it."""
        self.blocks.forget()
        self._snapshot.restore()


def local_folder(ref: ModelRef) -> Path | None:
    """The folder of the model's files; those of a hub model are fetched. None when it has no safetensors there.

    Raises SettingsError when the hub cannot be reached.
    """
    if not ref.on_hub:
        return Path(local_files(ref).path)
    import huggingface_hub

    def fetch(patterns: list[str]) -> Path:
        try:
            return Path(huggingface_hub.snapshot_download(ref.path, revision=ref.revision, allow_patterns=patterns))
        except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
            raise unreachable(ref, error) from None

    code = ["*.py"] if ref.trust_remote_code else []
    folder = fetch(["config.json", INDEX, *TOKENIZER_FILES, *code])
    folder = fetch(indexed_files(folder) or [SINGLE])
    return folder if checkpoint_files(folder) else None


def sources_of_streamed(model: PreTrainedModel, stored: dict[str, Stored]) -> dict[str, Source]:
    """Where every tensor of a model without weights lies. Raises SettingsError when it cannot be streamed: its blocks
    share matrices, or tensors must be converted while they are loaded."""
    _refuse_shared(decoder_blocks(model))
    return find_sources(model, stored)


def _fill_outside(
    model: PreTrainedModel, blocks: torch.nn.ModuleList, sources: dict[str, Source], device: torch.device
) -> None:
    """Load everything outside the blocks, and move the buffers that no checkpoint holds; tied weights stay one."""
    inside = {id(tensor) for block in blocks for tensor in (*block.parameters(), *block.buffers())}
    names = {id(tensor): name for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
    places: list[tuple[dict[str, Any], str, torch.Tensor]] = [
        (kind, name, tensor)
        for module in model.modules()
        for kind in (module._parameters, module._buffers)
        for name, tensor in kind.items()
        if tensor is not None
    ]  # all tensors at once, so that no id is used a second time below
    new: dict[int, torch.Tensor] = {}
    for kind, name, tensor in places:
        if id(tensor) not in new:
            if id(tensor) not in names:
                new[id(tensor)] = tensor.to(device)
            elif id(tensor) in inside:
                new[id(tensor)] = as_meta(tensor)
            else:
                data = read_whole(sources[names[id(tensor)]], device)
                is_parameter = isinstance(tensor, torch.nn.Parameter)
                new[id(tensor)] = torch.nn.Parameter(data, requires_grad=False) if is_parameter else data
        kind[name] = new[id(tensor)]


def _refuse_shared(blocks: torch.nn.ModuleList) -> None:
    owners: dict[int, int] = {}
    for index, block in enumerate(blocks):
        for name, parameter in block.named_parameters():
            if owners.setdefault(id(parameter), index) != index:
                raise SettingsError(
                    f"models: {name} of block {index} belongs to block {owners[id(parameter)]} as well, so the model "
                    "cannot be streamed; use placement: whole"
                )


def _dtype(ref: ModelRef, config: Any, stored: dict[str, Stored], device: str) -> torch.dtype:
    """By the rules of `DenseModel`: `auto` is float32 on a CPU, and on a GPU what the checkpoint says."""
    if ref.dtype != "auto":
        return getattr(torch, ref.dtype)  # type: ignore[no-any-return]
    if device == "cpu":
        return torch.float32
    if config.dtype is not None:
        return getattr(torch, config.dtype) if isinstance(config.dtype, str) else config.dtype
    kinds = (dtype_of(tensor.dtype) for tensor in stored.values())
    return next((kind for kind in kinds if kind is not None and kind.is_floating_point), torch.float32)


def _refuse_special(model: PreTrainedModel, config: Any, dtype: torch.dtype) -> None:
    if getattr(config, "quantization_config", None) is not None:
        raise SettingsError("models: the checkpoint is quantized already, and such a model cannot be streamed")
    kept = [*(model._keep_in_fp32_modules_strict or ())]
    kept += [*(model._keep_in_fp32_modules or ())] if dtype == torch.float16 else []
    if kept and dtype in (torch.float16, torch.bfloat16):
        raise SettingsError(
            f"models: {type(model).__name__} keeps {kept[0]} in float32, so it cannot be streamed in {dtype}; "
            "use dtype: float32, or placement: whole"
        )
    if next(model.parameters()) is next(decoder_blocks(model).parameters()):
        raise SettingsError(f"models: {type(model).__name__} has no weights before its blocks; use placement: whole")


def _check_scratch(blocks: StreamedBlocks) -> None:
    """Compressed blocks take what dense ones take, or less."""
    needed = blocks.bytes
    free = shutil.disk_usage(blocks.scratch).free
    if free < needed:
        raise SettingsError(
            f"models: {blocks.scratch} has {free / 2**30:.1f} GiB free, and the compressed blocks of a streamed model "
            f"take up to {needed / 2**30:.1f} GiB; point TMPDIR to a larger disk"
        )


def _too_large(ref: ModelRef) -> bool:
    """Whether the weights and working room exceed what the GPU has free, or the weights what the host can load."""
    folder = local_folder(ref)
    if not folder or not checkpoint_files(folder):
        return False  # transformers finds other formats
    target = None if ref.dtype == "auto" else getattr(torch, ref.dtype)
    size = sum(
        prod(tensor.shape) * (target.itemsize if target else tensor.size // max(1, prod(tensor.shape)))
        for tensor in checkpoint_tensors(folder).values()
    )
    return size + WORKING_ROOM > device_memory(torch.cuda.current_device()) or size > host_memory()
