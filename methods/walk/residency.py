"""Where the weights of decoder blocks live: the one seam between a walk over blocks and a model larger than the GPU.

A walk announces the block that it runs and the one that follows. Ordinary models hold all blocks and nothing happens.
A model that is streamed (`sweep/weights/streaming.py`) carries a `BlockHome` as attribute `block_home`, which brings
the block to the device, fetches the next one meanwhile, and keeps what the walk changed. The hard case is the hidden
states of all calibration windows, which must fit beside the blocks: `device_memory` says what is left for them.

Words: a block is *resident* while its weights are on the device; its *home* is where they are otherwise; hidden states
are *parked* while they wait in the host's memory.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from methods.lazy import torch


class BlockHome(Protocol):
    """Brings single blocks of a model to the device, and takes them away again."""

    def resident(
        self, index: int, following: int | None = None, *, changes: bool = False
    ) -> AbstractContextManager[None]:
        """Block `index` holds its weights while this is open, and `following` is fetched meanwhile.

        `changes`: what the block holds at the end is kept; otherwise it must be as it was.
        """
        ...


def home_of(model: torch.nn.Module) -> Any:
    """The model's `BlockHome`, or None when it holds all of its blocks itself."""
    return getattr(model, "block_home", None)


def resident(
    model: torch.nn.Module, index: int, following: int | None = None, *, changes: bool = False
) -> AbstractContextManager[None]:
    """Block `index` of any model holds its weights while this is open (see `BlockHome.resident`)."""
    home: BlockHome | None = home_of(model)
    return nullcontext() if home is None else home.resident(index, following, changes=changes)


def device_memory(device: torch.device | str | int) -> int:
    """Bytes that tensors on a CUDA device may still take: what is free there, and what the allocator holds unused.

    A limit set by `torch.cuda.set_per_process_memory_fraction` counts.
    """
    free, total = torch.cuda.mem_get_info(device)
    used, held = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total)
    return max(0, min(free + held, allowed) - used)


def parked(hidden: torch.Tensor, place: torch.Tensor | None = None) -> torch.Tensor:
    """`hidden` in host memory; from a GPU a copy in pinned memory, made while the GPU goes on.

    `place`: a pinned tensor to be overwritten, when its shape and dtype fit. Only the same stream may read the copy
    back without waiting.
    """
    if hidden.device.type != "cuda":
        return hidden.cpu()
    fits = place is not None and place.is_pinned() and place.shape == hidden.shape and place.dtype == hidden.dtype
    if place is None or not fits:
        place = torch.empty_like(hidden, device="cpu", pin_memory=True)
    return place.copy_(hidden, non_blocking=True)
