"""Weights from the host's memory to a GPU: in pieces, by several threads, through pinned buffers that are used again.

`Module.to` copies pageable memory: one thread meets every page of a mapped file, copies it where the GPU can read, and
waits for it, some 7 GB a second. Here each thread fills one of its two buffers while the other is on its way. Small
models are not worth the buffers, and whatever is no plain tensor is left to `Module.to`. The hard case is memory that
one stream frees and another fills: all copies are made on streams of their own, between two waits for the device.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from itertools import cycle
from typing import Any, TypeVar

import numpy as np

from methods.lazy import torch

THREADS = 8  # at most: four read 10 to 20 GB a second out of the page cache, and others may be at work
PIECE = 8 << 20  # bytes of one copy; each thread pins two of them
LEAST = 1 << 20  # bytes of a tensor that is worth a piece
WORTH = 1 << 30  # bytes in all: below, pinning and threads take as long as they save

Module = TypeVar("Module", bound="torch.nn.Module")


class Buffer:
    """Memory that is made once and used again as soon as it is not `busy` (an event, or a future)."""

    def __init__(self, *, pinned: bool = True) -> None:
        self.pinned = pinned
        self.memory: torch.Tensor | None = None
        self.busy: Any = None

    def of(self, size: int) -> torch.Tensor:
        """At least `size` bytes; waits until they are free."""
        if isinstance(self.busy, Future):
            self.busy.exception()  # whoever reads the block hears of it
        elif self.busy is not None:
            self.busy.synchronize()
        if self.memory is None or self.memory.numel() < size:
            self.memory = None
            self.memory = torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned)
        return self.memory


def moved(model: Module, device: torch.device | str, worth: int = WORTH) -> Module:
    """`model.to(device)`, sooner for a model of `worth` bytes or more that goes to a GPU; the same to the bit.

    Parameters stay the objects that they are, so tied weights stay tied. Raises what `model.to` raises.
    """
    target = torch.device(device)
    large = [parameter for parameter in model.parameters() if _stageable(parameter)]
    if target.type == "cuda" and sum(parameter.nbytes for parameter in large) >= worth:
        with suppress(RuntimeError):  # too little memory, here or there: met again, and told, by `to`
            carry(large, target)
    return model.to(target)


def carry(parameters: Sequence[torch.nn.Parameter], device: torch.device) -> None:
    """Give contiguous parameters in the host's memory their data on `device`; all of them, or none when it raises."""
    for parameter, copied in zip(parameters, staged([each.data for each in parameters], device), strict=True):
        parameter.data = copied


def _stageable(parameter: torch.nn.Parameter) -> bool:
    return (
        type(parameter) is torch.nn.Parameter
        and parameter.device.type == "cpu"
        and parameter.layout is torch.strided
        and parameter.is_contiguous()
        and parameter.nbytes >= LEAST
    )


def staged(
    tensors: Sequence[torch.Tensor], device: torch.device, threads: int | None = None, piece: int = PIECE
) -> list[torch.Tensor]:
    """Copies on `device` of contiguous tensors in the host's memory, which are there when this returns.

    threads: one for each CPU, up to `THREADS`, when None. piece: bytes of one copy. Raises RuntimeError when memory is
    short.
    """
    copies = [torch.empty_like(tensor, device=device) for tensor in tensors]
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # what had this memory before is done with it
    waiting = iter([pair for both in zip(tensors, copies, strict=True) for pair in _pieces(*both, piece)])
    count = threads or min(THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(count, "staging") as pool:
        for done in [pool.submit(_send, waiting, device, piece) for _ in range(count)]:
            done.result()
    return copies


def _pieces(source: torch.Tensor, target: torch.Tensor, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The bytes of both, `size` at a time."""
    source, target = (each.reshape(-1).view(torch.uint8) for each in (source, target))
    yield from zip(source.split(size), target.split(size), strict=True)


def _send(waiting: Iterator[tuple[torch.Tensor, torch.Tensor]], device: torch.device, size: int) -> None:
    """In a thread: copy pieces until none is left; the threads share `waiting`, the iterator of a list."""
    on_gpu = device.type == "cuda"
    stream = torch.cuda.Stream(device) if on_gpu else None
    buffers = cycle([Buffer(pinned=on_gpu), Buffer(pinned=on_gpu)])
    try:
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            for source, target in waiting:
                buffer = next(buffers)
                held = buffer.of(size)[: source.numel()]
                np.copyto(held.numpy(), source.numpy())  # without Python's lock, and in this thread alone
                target.copy_(held, non_blocking=True)
                if stream is not None:
                    buffer.busy = stream.record_event()
    finally:
        if stream is not None:
            stream.synchronize()  # also after an error, when others are given the memory that is being written to
