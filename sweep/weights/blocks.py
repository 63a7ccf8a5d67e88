"""Decoder blocks that come and go: read from files, resident while something runs them, written back when changed.

A reader thread fetches the block that follows while the device works on the present one: file to pinned memory in
pieces by several threads, then to the device on a stream of its own. What a walk leaves in a block goes through a
second pinned buffer to an unnamed file, which the page cache keeps in memory where there is room and which vanishes
with the process, however it dies. Both buffers are made once. A block that is away is a structure of meta tensors,
also when its linears have become two factors. The hard case is memory that is freed on one stream and filled on
another: blocks are marked as used by both, and the next one is copied in when the one before is done with, so that
never more than two are on the device.

Words of this room: a block is *resident* while its weights are on the device and *away* otherwise; it is *changed* when
a walk has left other weights in it; *scratch* is the folder that holds those; a *skeleton* is a model without weights.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from math import prod
from typing import Any

from methods.lazy import torch
from sweep.checkpoints.integrity import refuse_not_finite
from sweep.weights.hashes import checksum
from sweep.weights.sample import block_kinds, cut_to, enough
from sweep.weights.skeleton import as_meta
from sweep.weights.staging import Buffer
from sweep.weights.tensors import DataFile, Source, bytes_of

READERS = 4  # threads that read pieces of one block
PIECE = 32 << 20  # bytes of one read
ALIGNED = 256  # bytes, of a tensor's place in a buffer


@dataclass
class _Loaded:
    """Tensors of a block on the device, as soon as `ready` (None: now)."""

    tensors: dict[str, torch.Tensor]
    ready: Any = None


@dataclass
class Traffic:
    """What streaming moved, and how long the device had nothing to do because of it."""

    loads: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds_read: float = 0.0  # of the reader thread, mostly hidden behind the device's work
    known: float = 0.0  # seconds waited so far
    events: list[tuple[Any, Any]] = field(default_factory=list)  # of a GPU: around the waits that are not counted yet

    @property
    def seconds_waited(self) -> float:
        """From the end of all queued work to the arrival of a block's weights, summed over blocks."""
        for before, after in self.events:
            after.synchronize()
            self.known += before.elapsed_time(after) / 1000
        self.events.clear()
        return self.known


class StreamedBlocks:
    """The home of a model's blocks (`methods.walk.residency.BlockHome`)."""

    def __init__(
        self,
        model: torch.nn.Module,
        blocks: torch.nn.ModuleList,
        sources: Mapping[str, Source],
        device: torch.device,
        scratch: str | None = None,
        name: str = "",
    ) -> None:
        """`blocks` hold meta tensors; `sources` has all of them by their name in `model`. scratch: a folder for what
        is changed, the system's temporary one when None. name: of the model, for errors."""
        self.model = model
        self.name = name or type(model).__name__
        self.blocks = blocks
        self.device = device
        self.scratch = scratch or tempfile.gettempdir()
        self.traffic = Traffic()
        prefix = next(name for name, module in model.named_modules() if module is blocks)
        self._prefixes = [f"{prefix}.{index}." for index in range(len(blocks))]
        self._dense = [_relative(sources, prefix) for prefix in self._prefixes]
        self._changed: dict[int, Future[dict[str, Source]]] = {}
        self._finite: set[int] = set()  # dense blocks that were looked at when they were first read
        self._sums: dict[int, dict[str, int]] = {}  # of dense blocks, found when asked for
        self._changed_sums: dict[int, dict[str, int]] = {}
        self._fetching: dict[int, Future[_Loaded]] = {}
        self._reader = ThreadPoolExecutor(1, "block-reader")
        self._pieces = ThreadPoolExecutor(READERS, "block-pieces")
        self._writer = ThreadPoolExecutor(1, "block-writer")
        self._buffers = {name: Buffer() for name in ("read", "write")}
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def bytes(self) -> int:
        """Of all dense blocks, in the model's dtype."""
        return sum(prod(source.shape) * source.dtype.itemsize for block in self._dense for source in block.values())

    # residency

    @contextmanager
    def resident(self, index: int, following: int | None = None, *, changes: bool = False) -> Iterator[None]:
        """See `methods.walk.residency.BlockHome`. An error in a block that changes leaves the model to be restored."""
        self._install(index)
        try:
            if following is not None and following != index:
                self._fetch(following)
            yield
            if changes:
                self._write(index)
        finally:
            _to_meta(self.blocks[index])

    @contextmanager
    def sample(self) -> Iterator[Any]:
        """The model cut to its first blocks, as few as show every kind of layer, and all of them resident.

        An ordinary small model: what is checked on it costs a few blocks instead of all.
        """
        count = enough(block_kinds(self.model, self.blocks))
        home = self.model.block_home
        try:
            for index in range(count):
                self._install(index)
            self.model.block_home = None  # type: ignore[assignment]
            with cut_to(self.model, self.blocks, count):
                yield self.model
        finally:
            self.model.block_home = home
            for index in range(count):
                _to_meta(self.blocks[index])

    def forget(self) -> None:
        """Drop everything that was changed. The caller gives the modules their structure back."""
        waiting: list[Future[Any]] = [*self._fetching.values(), *self._changed.values()]
        for block in waiting:
            block.cancel()
        for pool in (self._reader, self._writer):
            pool.submit(int).result()  # what was running is done
        self._fetching.clear()
        self._changed.clear()
        self._changed_sums.clear()
        self._buffers["write"].busy = None

    def checksums(self) -> dict[str, int]:
        """The checksum (see `sweep.weights.hashes.checksum`) of every tensor in a block, by its name in the model."""
        missing = [index for index in range(len(self.blocks)) if index not in {**self._sums, **self._changed_sums}]
        for index, following in zip_longest(missing, missing[1:]):
            with self.resident(index, following):
                self._sums[index] = self._checksums(index)
        found: dict[str, int] = {}
        for index in range(len(self.blocks)):
            found.update(self._changed_sums.get(index) or self._sums[index])
        return found

    def _checksums(self, index: int) -> dict[str, int]:
        sums: dict[int, int] = {}
        names: dict[str, int] = {}
        for name, tensor in self.blocks[index].state_dict(keep_vars=True).items():
            names[self._prefixes[index] + name] = sums.setdefault(id(tensor), checksum(tensor))
        return names

    # reading

    def _install(self, index: int) -> None:
        """Put the block's tensors in place of the meta tensors, and let the device wait for them."""
        if index not in self._fetching:
            self._fetch(index)
        loading = self._fetching.pop(index)
        self._fetching.clear()  # fetched for a walk that took another way
        before = self._mark()
        started = time.perf_counter()
        loaded = loading.result()
        if self._stream is None:
            self.traffic.known += time.perf_counter() - started
        else:
            working = torch.cuda.current_stream(self.device)
            working.wait_event(loaded.ready)
            for tensor in loaded.tensors.values():
                tensor.record_stream(working)  # made on the other stream, freed when this one is done with it
            self.traffic.events.append((before, self._mark()))
        for (module, kind, name, key), _ in _slots(self.blocks[index]):
            getattr(module, kind)[name] = loaded.tensors[key]

    def _mark(self) -> Any:
        """An event at the end of the work that is queued now."""
        if self._stream is None:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _fetch(self, index: int) -> None:
        if index not in self._fetching:
            parameters = {key for (_, kind, _, key), _ in _slots(self.blocks[index]) if kind == "_parameters"}
            self._fetching[index] = self._reader.submit(self._load, index, parameters, self._mark())

    def _load(self, index: int, parameters: set[str], queued: Any) -> _Loaded:
        """In the reader thread: the block's tensors on the device."""
        started = time.perf_counter()
        changed = self._changed.get(index)
        sources = self._dense[index] if changed is None else changed.result()
        raw = self._read(sources)
        self.traffic.loads += 1
        self.traffic.bytes_read += sum(source.size for source in sources.values())
        self.traffic.seconds_read += time.perf_counter() - started
        stored = {key: raw[key].view(source.stored).view(source.shape) for key, source in sources.items()}
        ready = None
        if self._stream is not None:
            queued.synchronize()  # the block before is done with, and its memory is free for this one
            with torch.cuda.stream(self._stream):
                stored = {key: tensor.to(self.device, non_blocking=True) for key, tensor in stored.items()}
                ready = torch.cuda.Event(enable_timing=True)
                ready.record(self._stream)
                self._buffers["read"].busy = ready
                tensors = {key: stored.pop(key).to(source.dtype) for key, source in sources.items()}
                ready = torch.cuda.Event(enable_timing=True)
                ready.record(self._stream)
                self._look_at(index, tensors, dense=changed is None)
        else:
            tensors = {key: stored.pop(key).to(source.dtype) for key, source in sources.items()}
            self._look_at(index, tensors, dense=changed is None)
        kept = {k: torch.nn.Parameter(t, requires_grad=False) if k in parameters else t for k, t in tensors.items()}
        return _Loaded(kept, ready)

    def _look_at(self, index: int, tensors: Mapping[str, torch.Tensor], *, dense: bool) -> None:
        """Raise SettingsError when a dense block that is read for the first time holds NaN or infinite numbers."""
        if dense and index not in self._finite:
            refuse_not_finite(self.name, ((self._prefixes[index] + key, t) for key, t in tensors.items()))
            self._finite.add(index)

    def _read(self, sources: Mapping[str, Source]) -> dict[str, torch.Tensor]:
        """The bytes of every tensor, in pinned memory for a GPU."""
        places, total = _layout({key: source.size for key, source in sources.items()})
        if self._stream is None:
            raw = {key: torch.empty(source.size, dtype=torch.uint8) for key, source in sources.items()}
        else:
            buffer = self._buffers["read"].of(total)
            raw = {key: buffer[places[key] : places[key] + source.size] for key, source in sources.items()}
        waiting = []
        for key, source in sources.items():
            view = bytes_of(raw[key])
            for start in range(0, source.size, PIECE):
                piece = view[start : start + PIECE]
                waiting.append(self._pieces.submit(source.file.read, source.start + start, piece))
        for done in waiting:
            done.result()
        return raw

    # writing

    def _write(self, index: int) -> None:
        """Send what the block holds now to a file of its own, and remember its checksums."""
        self._changed_sums[index] = self._checksums(index)
        tensors = {key: value.detach().contiguous() for (_, _, _, key), value in _slots(self.blocks[index])}
        places, total = _layout({key: tensor.nbytes for key, tensor in tensors.items()})
        copied = None
        if self._stream is not None and tensors:
            buffer = self._buffers["write"].of(total)
            for key, tensor in tensors.items():
                place = buffer[places[key] : places[key] + tensor.nbytes]
                place.copy_(tensor.reshape(-1).view(torch.uint8), non_blocking=True)
            copied = self._mark()
            raw = {key: buffer[places[key] : places[key] + tensor.nbytes] for key, tensor in tensors.items()}
        else:
            raw = {key: tensor.reshape(-1).view(torch.uint8) for key, tensor in tensors.items()}
        kinds = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
        self.traffic.bytes_written += sum(tensor.nbytes for tensor in tensors.values())
        writing = self._writer.submit(self._store, raw, places, kinds, copied)
        self._changed[index] = writing
        self._buffers["write"].busy = writing

    def _store(
        self,
        raw: Mapping[str, torch.Tensor],
        places: Mapping[str, int],
        kinds: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        copied: Any,
    ) -> dict[str, Source]:
        """In the writer thread: the tensors in an unnamed file."""
        if copied is not None:
            copied.synchronize()
        with tempfile.TemporaryFile(dir=self.scratch, buffering=0) as unnamed:
            file = DataFile(os.dup(unnamed.fileno()), f"a changed block in {self.scratch}")
        try:
            for key, content in raw.items():
                file.write(places[key], bytes_of(content))
        except OSError as error:
            raise OSError(
                error.errno,
                f"a changed block cannot be kept in {self.scratch} ({error.strerror}); point TMPDIR elsewhere",
            ) from None
        return {
            key: Source(file, places[key], raw[key].numel(), dtype, shape, dtype)
            for key, (dtype, shape) in kinds.items()
        }


def _to_meta(block: torch.nn.Module) -> None:
    """Free what the block holds: its parameters, and the buffers that belong to its state."""
    away: dict[int, torch.Tensor] = {}
    for (module, kind, name, _), tensor in _slots(block):
        if not tensor.is_meta:
            getattr(module, kind)[name] = away.setdefault(id(tensor), as_meta(tensor))


_Slot = tuple[Any, str, str, str]  # (module, dictionary, name, key)


def _slots(block: torch.nn.Module) -> list[tuple[_Slot, torch.Tensor]]:
    """Every place of the block that holds a tensor of its state: ((module, dictionary, name, key), tensor).

    Places that share a tensor share the key, which is the name of the first of them in the block.
    """
    found: list[tuple[_Slot, torch.Tensor]] = []
    keys: dict[int, str] = {}
    for path, module in block.named_modules():
        for kind in ("_parameters", "_buffers"):
            for name, tensor in getattr(module, kind).items():
                if tensor is None or (kind == "_buffers" and name in module._non_persistent_buffers_set):
                    continue
                key = keys.setdefault(id(tensor), f"{path}.{name}" if path else name)
                found.append(((module, kind, name, key), tensor))
    return found


def _relative(sources: Mapping[str, Source], prefix: str) -> dict[str, Source]:
    return {name.removeprefix(prefix): source for name, source in sources.items() if name.startswith(prefix)}


def _layout(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """(first byte of each tensor in one buffer, bytes in all)."""
    places, total = {}, 0
    for key, size in sizes.items():
        places[key] = total
        total += -(-size // ALIGNED) * ALIGNED
    return places, total
