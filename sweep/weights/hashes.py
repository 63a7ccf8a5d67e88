"""The hash of compressed weights, which takes no longer than reading them once where they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from methods.lazy import torch
from methods.walk.residency import home_of

ROW = 2**16  # elements hashed with one vector of multipliers


def weights_hash(model: torch.nn.Module) -> str:
    """64 hex digits over the names, shapes, dtypes and exact bits of all parameters and buffers of the state dict.

    Every tensor is read once, where it lies: its elements as integers are multiplied by odd pseudo-random numbers
    of their position and summed modulo 2^64. Integer sums do not depend on their order, so CPUs and GPUs agree, and
    any change of a single element changes the sum. A sha256 over all sums follows. This takes a fraction of a second
    for 7B parameters on a GPU, where copying them out for a sha256 of the bytes would take many. A streamed model knows
    the sums of the blocks that are not here.
    """
    home = home_of(model)
    elsewhere: Mapping[str, int] = home.checksums() if home else {}
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total = elsewhere[name] if tensor.is_meta else checksum(tensor)
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}:{total};".encode())
    return digest.hexdigest()


def checksum(tensor: torch.Tensor) -> int:
    """Its elements as integers times odd numbers of their place, summed modulo 2^64."""
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    flat = tensor.detach().contiguous().reshape(-1).view(integer)
    columns = _multipliers(ROW, 1, str(flat.device))
    total = 0
    for start in range(0, flat.numel(), ROW * 256):  # 16 Mi elements at a time: 128 MiB of int64
        piece = flat[start : start + ROW * 256]
        rows = -(-piece.numel() // ROW)
        padded = torch.zeros(rows * ROW, dtype=torch.int64, device=flat.device)
        padded[: piece.numel()] = piece
        sums = (padded.view(rows, ROW) * columns).sum(dim=1)
        total += int((sums * _multipliers(rows, 2 + start // ROW, str(flat.device))).sum())
    return total % 2**64


@lru_cache(maxsize=64)
def _multipliers(count: int, seed: int, device: str) -> torch.Tensor:
    """Odd 64-bit numbers that depend on (seed, position) alone (the splitmix64 finalizer)."""
    with np.errstate(over="ignore"):
        value = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        value += np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value = (value ^ (value >> np.uint64(31))) | np.uint64(1)
    return torch.from_numpy(value.view(np.int64)).to(device)
