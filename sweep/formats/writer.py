"""A compressed model as a folder that transformers and vLLM load: written block by block, whole or not at all.

Every packed weight is checked before it is written: the codes must give the weight that is in the model to the bit.
The folder is written under another name beside its place and renamed last, so what stands there is complete. Only one
block is in memory besides what the model holds itself, so a model that is streamed can be written too. The hard cases:
weights that are tied are written once, under the name that transformers reads; a model whose checkpoints transformers
converts while it loads them (fused experts) is left to its own `save_pretrained`, and only dense.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calib.settings import SettingsError
from methods.blockwise import decoder_blocks
from methods.lazy import torch
from methods.numerics.codes import NotOnGridError, find_codes
from methods.walk.factored import merge_factors
from methods.walk.residency import home_of, resident
from sweep.formats.catalog import DENSE
from sweep.formats.format import Format, FormatError, GridSpec
from sweep.formats.grids import blocks_name

SHARD_BYTES = 4 * 2**30
INDEX = "model.safetensors.index.json"


@dataclass
class Written:
    """What a checkpoint holds: bytes of all tensors and of the packed linears alone, and their weights' number."""

    folder: Path
    tensors: int = 0
    bytes: int = 0
    packed_linears: int = 0
    packed_bytes: int = 0
    packed_weights: int = 0
    files: dict[str, str] = field(default_factory=dict)  # file by tensor

    @property
    def bits_per_weight(self) -> float | None:
        """Bits on disk per weight of the packed linears: codes, scales, zero points, padding; None without any."""
        return 8 * self.packed_bytes / self.packed_weights if self.packed_weights else None


def write_model(
    model: Any,
    tokenizer: Any,
    out: Path,
    packed: Format | None,
    grids: Mapping[str, GridSpec],
    complete: Callable[[Path, Written], None] | None = None,
) -> Written:
    """Write `model` to the folder `out`, which must not be there; linears by name in `grids` in the format `packed`.

    `packed` None writes all weights dense; low-rank factors are multiplied first. `complete` adds files before the
    folder appears under its name. Raises FormatError or SettingsError.
    """
    check_target(out)
    if packed is not None:
        check_fits(model, packed, grids)
    else:
        merge_factors(model)
    _check_room(model, out)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        written = Written(partial)
        if packed is None and home_of(model) is None:
            model.save_pretrained(partial)
            written.bytes = sum(file.stat().st_size for file in partial.glob("*.safetensors"))
        else:
            _write_tensors(model, partial, packed, grids, written)
            _write_config(model, partial, packed, grids)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        if complete is not None:
            complete(partial, written)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    written.folder = out
    return written


def check_target(out: Path) -> None:
    """Raise SettingsError unless `out` can become a new folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"--out {out}: is there already and not empty; give another folder")
    if out.is_dir():
        out.rmdir()


def check_fits(model: Any, packed: Format, grids: Mapping[str, GridSpec]) -> None:
    """Raise FormatError when the format cannot hold one of the linears, or none is on a grid."""
    remedy = f"use --format {DENSE}, which holds every model"
    if not grids:
        raise FormatError(f"--format {packed.name}: no linear is on an integer grid; {remedy}")
    modules = dict(model.named_modules())
    for name, grid in grids.items():
        linear = modules.get(name)
        if not isinstance(linear, torch.nn.Linear):
            kind = "an expert of a fused parameter" if linear is None else f"a {type(linear).__name__}"
            raise FormatError(f"--format {packed.name}: {name} is {kind}, no nn.Linear; {remedy}")
        rows, cols = linear.weight.shape
        if reason := packed.refusal(grid, rows, cols, linear.weight.dtype):
            raise FormatError(f"--format {packed.name} cannot hold {name} ({grid.describe()}): {reason}; {remedy}")
    if packed.one_grid and len(kinds := set(grids.values())) > 1:
        text = ", ".join(sorted(kind.describe() for kind in kinds))
        raise FormatError(f"--format {packed.name} holds one grid for all linears, here are {text}; {remedy}")


def dense_linears(model: Any, grids: Mapping[str, GridSpec]) -> list[str]:
    """Names of the linears that no grid holds, the head among them."""
    return [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name not in grids]


def _write_tensors(
    model: Any, folder: Path, packed: Format | None, grids: Mapping[str, GridSpec], written: Written
) -> None:
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in _stored(model, packed, grids, written):
        if shard and size + tensor.nbytes > SHARD_BYTES:
            _write_shard(shard, folder, written)
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    _write_shard(shard, folder, written)
    if len(set(written.files.values())) == 1:
        (folder / next(iter(written.files.values()))).rename(folder / "model.safetensors")
        written.files = dict.fromkeys(written.files, "model.safetensors")
    else:
        index = {"metadata": {"total_size": written.bytes}, "weight_map": written.files}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True))


def _write_shard(shard: Mapping[str, torch.Tensor], folder: Path, written: Written) -> None:
    from safetensors.torch import save_file

    name = f"model-{len(set(written.files.values())) + 1:05d}.safetensors"
    save_file(dict(shard), folder / name, metadata={"format": "pt"})
    written.files.update(dict.fromkeys(shard, name))
    written.tensors += len(shard)
    written.bytes += sum(tensor.nbytes for tensor in shard.values())


def _stored(
    model: Any, packed: Format | None, grids: Mapping[str, GridSpec], written: Written
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the checkpoint by its name, in host memory; blocks first, each while it is resident."""
    prefix = blocks_name(model)
    blocks = decoder_blocks(model)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    for index, block in enumerate(blocks):
        following = index + 1 if index + 1 < len(blocks) else None
        with resident(model, index, following):
            for name, tensor in block.state_dict().items():
                full = f"{prefix}.{index}.{name}"
                linear = full.removesuffix(".weight")
                if full in tied:
                    continue
                if packed is not None and linear in grids and linear != full:
                    yield from _packed(linear, tensor, packed, grids[linear], written)
                else:
                    yield full, _plain(tensor)
    for name, tensor in model.state_dict().items():
        if not name.startswith(f"{prefix}.") and name not in tied:
            yield name, _plain(tensor)


def _packed(
    linear: str, weight: torch.Tensor, packed: Format, grid: GridSpec, written: Written
) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        codes = find_codes(weight, grid.bits, sym=grid.sym, group_size=grid.group_size)
    except NotOnGridError as error:
        dtype = str(weight.dtype).removeprefix("torch.")
        fix = f"scale_dtype: {dtype}" if dtype != "float32" else "a method whose weights stay on its grids"
        raise FormatError(
            f"--format {packed.name}: {linear} cannot be stored without a change: {error}; measure the method with "
            f"{fix}, which is what ships, or use --format {DENSE}"
        ) from None
    if not torch.equal(codes.weight(), weight):
        raise FormatError(f"--format {packed.name}: the codes of {linear} do not give its weights back")
    written.packed_linears += 1
    written.packed_weights += weight.numel()
    for suffix, tensor in packed.tensors(codes).items():
        written.packed_bytes += tensor.nbytes
        yield f"{linear}.{suffix}", _plain(tensor)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in host memory with a storage of its own, as safetensors wants it."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _write_config(model: Any, folder: Path, packed: Format | None, grids: Mapping[str, GridSpec]) -> None:
    model.config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None and model.can_generate():
        model.generation_config.save_pretrained(folder)
    if packed is None:
        return
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"] = packed.config(grids, dense_linears(model, grids))
    config["dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _check_room(model: Any, out: Path) -> None:
    """Dense weights are the most that is written. Raises SettingsError when the disk has not got that."""
    needed = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    there = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise SettingsError(
            f"--out {out}: the disk has {free / 2**30:.1f} GiB free, the model may take {needed / 2**30:.1f} GiB; "
            "give a folder on a larger disk"
        )
