"""Dense weights that stay in their files: out of them the workers of a machine's processors give a model back.

A trial changes the weights that it works with, and the next one needs them as they were. In the files they are in the
system's page cache once, for all workers; a copy for each worker takes as much as what it works with, twice the files
where these are in half precision. The hard case is a file that is not any more what was loaded. Its weights are
compared with the loaded ones, to the bit, before they are relied upon; an open file stays what it is when another takes
its name; and one that is written to or cut off is an error, never other weights. It is read and not mapped, since a
mapped file that is cut off ends the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calib.settings import SettingsError
from methods.lazy import torch
from sweep.checkpoints.tensors import checkpoint_tensors
from sweep.models import ModelRef, cached_snapshot
from sweep.weights.sources import find_sources
from sweep.weights.tensors import DataFile, Source, bytes_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LEAST = 1 << 28  # bytes of a model's weights: a worker takes as much without a model, so less is not worth the files
# not to look for weights in files, which is no reason not to compute with them: a tensor that is stored in parts, files
# that cannot be read again, names that a version of transformers finds in another way
REASONS = (SettingsError, OSError, ImportError, AttributeError, TypeError)
PIECE = 2 << 20  # bytes that are read and converted at a time: they stay in the cache of a core


@dataclass(frozen=True)
class StoredWeight:
    """One weight of a model, which its file has in the same or in a narrower dtype."""

    source: Source
    changed: tuple[int, int]  # the file's size and the time of its last change, when it held what was loaded

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.source.shape)

    @property
    def dtype(self) -> torch.dtype:
        """In the model."""
        return self.source.dtype

    def put_into(self, tensor: torch.Tensor) -> None:
        """Give `tensor` the numbers of the file, in place where it has this shape and dtype.

        Raises OSError when the file was written to, or cut off, since the model was loaded.
        """
        if tensor.shape != self.shape or tensor.dtype != self.dtype or not tensor.is_contiguous():
            tensor.data = torch.empty(self.shape, dtype=self.dtype)
        flat, source = tensor.detach().view(-1), self.source
        if source.stored == source.dtype:
            source.file.read(source.start, bytes_of(flat.view(torch.uint8)))
        else:
            for place, numbers in self._pieces():
                flat[place : place + len(numbers)].copy_(numbers)
        if _changed(self.source.file) != self.changed:
            raise OSError(
                f"{self.source.file.name} was changed after it had been loaded, so the dense weights cannot be given "
                "back; start again with files that stay as they are"
            )

    def equals(self, tensor: torch.Tensor) -> bool:
        """Whether `tensor` is what the file holds, to the bit."""
        if tensor.shape != self.shape or tensor.dtype != self.dtype or not tensor.is_contiguous():
            return False
        bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[self.dtype.itemsize]
        flat = tensor.detach().view(-1).view(bits)
        return all(
            torch.equal(flat[place : place + len(numbers)], numbers.to(self.dtype).view(bits))
            for place, numbers in self._pieces()
        )

    def _pieces(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The numbers in the dtype of the file, in one piece of memory after the other, and the place of the first."""
        source, size = self.source, self.source.stored.itemsize
        buffer = torch.empty(min(PIECE, source.size), dtype=torch.uint8)
        for start in range(0, source.size, PIECE):
            raw = buffer[: min(PIECE, source.size - start)]
            source.file.read(source.start + start, bytes_of(raw))
            yield start // size, raw.view(source.stored)


def stored_weights(ref: ModelRef, model: PreTrainedModel) -> dict[str, StoredWeight]:
    """The weights of a model, as it was loaded, that need no copy in memory, by name: the model's dtype holds exactly
    what its files have of them. None of a small model, and none where transformers computes weights while loading.
    """
    if sum(weight.nbytes for weight in model.parameters()) < LEAST:
        return {}
    folder = cached_snapshot(ref.path, ref.revision or "main") if ref.on_hub else Path(ref.path)
    loaded = dict(model.named_parameters())
    try:
        sources = find_sources(model, checkpoint_tensors(folder)) if folder else {}
        exact = {name: source for name, source in sources.items() if name in loaded and _is_exact(source)}
        found = {name: StoredWeight(source, _changed(source.file)) for name, source in exact.items()}
        return {name: weight for name, weight in found.items() if weight.equals(loaded[name])}
    except REASONS:
        return {}


def _is_exact(source: Source) -> bool:
    """Whether the model's dtype holds every number of the stored one."""
    stored, dtype = source.stored, source.dtype
    return stored == dtype or (stored.is_floating_point and torch.promote_types(stored, dtype) == dtype)


def _changed(file: DataFile) -> tuple[int, int]:
    about = os.fstat(file.descriptor)
    return about.st_size, about.st_mtime_ns
