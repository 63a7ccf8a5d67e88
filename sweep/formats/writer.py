"""A compressed model as a folder that transformers and vLLM load: written block by block, whole or not at all.

Every packed weight is checked before it is written: the codes must give the weight that is in the model to the bit.
The folder is written under another name beside its place and renamed last, so what stands there is complete. Only one
block is in memory besides what the model holds itself, so a model that is streamed can be written too. The hard cases:
weights that are tied are written once, under the name that transformers reads; a model whose checkpoints transformers
converts while it loads them (fused experts) is left to its own `save_pretrained`, and only dense.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.settings import SettingsError
from methods.blockwise import decoder_blocks
from methods.lazy import torch
from methods.numerics.codes import NotOnGridError, find_codes
from methods.walk.factored import factored, merge_factors
from methods.walk.linears import experts_of
from methods.walk.residency import home_of, resident
from sweep.formats import factored as factored_format
from sweep.formats import spqr as spqr_format
from sweep.formats.catalog import BITSANDBYTES, DENSE, FACTORED, KEPT, PACKED, SPQR, check_name
from sweep.formats.code import copy_code, find_code
from sweep.formats.format import Format, FormatError, GridSpec
from sweep.formats.grids import blocks_name
from sweep.formats.kept import Kept

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHARD_BYTES = 2**30  # a shard waits in memory until it is full
PARTIAL = ".partial-"  # stands in the name of a folder that is not complete, before the number of the process


@dataclass
class Written:
    """What a checkpoint holds: bytes of all tensors and of the packed linears alone, and their weights' number.

    merged: linears whose two factors were multiplied, which rounded their product to the model's type. grids: those of
    the packed linears. counted_bits: bits a weight that the method counts, where a report says it.
    """

    folder: Path
    format: str
    bytes: int = 0
    packed_linears: int = 0
    packed_bytes: int = 0
    packed_weights: int = 0
    merged: list[str] = field(default_factory=list)
    grids: tuple[GridSpec, ...] = ()
    counted_bits: float | None = None

    @property
    def bits_per_weight(self) -> float | None:
        """Bits on disk per weight of the packed linears: codes, scales, zero points, padding; None without any."""
        return 8 * self.packed_bytes / self.packed_weights if self.packed_weights else None


def write_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    kind: str = DENSE,
    grids: Mapping[str, GridSpec] | None = None,
    complete: Callable[[Path, Written], None] | None = None,
    kept: Kept | None = None,
) -> Written:
    """Write `model` to the folder `out`, which must not be there or be empty, in the format of the name `kind`.

    `grids` has the linears by name that a packed format holds, `kept` those of `spqr` and `bitsandbytes`; `factored`
    writes low-rank factors as they are, and all others multiply them, in a model that is not streamed in place.
    `complete` adds files before the folder appears under its name. Raises FormatError or SettingsError.
    """
    check_name(kind)
    check_target(out)
    grids = (grids or {}) if kind in PACKED else {}
    find_code(model.config)
    if kind in PACKED:
        check_fits(model, PACKED[kind], grids)
    if kind in KEPT:
        _check_kept(model, kind, kept)
    if kind == FACTORED and not factored(model):
        raise FormatError(f"--format {FACTORED}: the model holds no low-rank factors; use --format {DENSE}")
    _check_room(model, out, grids)
    partial = out.with_name(f"{out.name}{PARTIAL}{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)  # of an earlier process of this number
    try:
        partial.mkdir(parents=True)
        written = Written(partial, kind, grids=tuple(dict.fromkeys(grids.values())))
        if kind == DENSE and home_of(model) is None:
            written.merged = merge_factors(model)
            with _without_generation(model):
                model.save_pretrained(partial, max_shard_size=SHARD_BYTES)
            _write_generation(model, partial)
            written.bytes = sum(file.stat().st_size for file in partial.glob("*.safetensors"))
        else:
            _Writer(model, kind, grids, written, kept).write()
        for file in partial.glob("*.safetensors"):  # the library makes it its owner's alone; another user may serve it
            file.chmod((partial / "config.json").stat().st_mode)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        copy_code(model.config, partial)
        if complete is not None:
            complete(partial, written)
        _flush(partial)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    written.folder = out
    return written


def check_target(out: Path) -> None:
    """Raise SettingsError unless `out` can become a new folder: an empty one may be there, or a missing parent."""
    if out.name in ("", ".."):
        raise SettingsError(f"--out {out}: names no new folder; give one a name")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise SettingsError(f"--out {out}: is there already and no folder; give another name")
    if out.is_dir() and any(out.iterdir()):
        raise SettingsError(f"--out {out}: is there already and not empty; give another folder")
    above = nearest(out.absolute().parent)
    if not above.is_dir():
        raise SettingsError(f"--out {out}: {above} is no folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise SettingsError(f"--out {out}: nothing can be written in {above}")


def check_apart(out: Path, *places: str | os.PathLike[str]) -> None:
    """Raise SettingsError when `out` is one of these folders or lies inside: what is read is not written into."""
    target = Path(os.path.realpath(out))
    for place in places:
        folder = Path(os.path.realpath(place))
        if folder.is_dir() and (target == folder or folder in target.parents):
            raise SettingsError(f"--out {out}: lies in {place}, which is read; give a folder elsewhere")


def leftovers(out: Path) -> list[Path]:
    """Folders beside `out` that an export of this name left unfinished, because it was killed or still runs."""
    return sorted(out.absolute().parent.glob(f"{escape(out.name)}{PARTIAL}*"))


def check_fits(model: PreTrainedModel, packed: Format, grids: Mapping[str, GridSpec]) -> None:
    """Raise FormatError when the format cannot hold one of the linears, or none is on a grid."""
    remedy = f"use --format {DENSE}, which holds every model"
    if not grids:
        raise FormatError(f"--format {packed.name}: no linear is on an integer grid; {remedy}")
    linears = _linears_to_pack(model, packed.name, grids)
    for name, grid in grids.items():
        linear = linears[name]
        rows, cols = linear.weight.shape
        dtype = str(linear.weight.dtype).removeprefix("torch.")
        reason = packed.refuses_grid(grid, dtype) or packed.refuses_shape(grid, rows, cols)
        if dtype == "float64":
            reason = "no loader computes with float64"
        if reason:
            raise FormatError(f"--format {packed.name} cannot hold {name} ({grid.describe()}): {reason}; {remedy}")
    kinds = list(dict.fromkeys(grids.values()))
    if len(kinds) > 1 and (reason := packed.refuses_mix(kinds)):
        text = ", ".join(kind.describe() for kind in kinds)
        raise FormatError(f"--format {packed.name} cannot hold linears on {text}: {reason}; {remedy}")


def _check_kept(model: PreTrainedModel, kind: str, kept: Kept | None) -> None:
    """Raise FormatError when the grids of no linear were kept, or one of them cannot be stored."""
    if kept is None or kept.format != kind or not kept.names():
        raise FormatError(
            f"--format {kind}: what the solver fitted was not kept; give compress_model the witness that "
            f"sweep.formats.{kind} has, or use --format {DENSE}"
        )
    prefix = blocks_name(model)
    _linears_to_pack(model, kind, [f"{prefix}.{name}" for name in kept.names()])


def _linears_to_pack(model: PreTrainedModel, kind: str, names: Iterable[str]) -> dict[str, torch.nn.Linear]:
    """The linears of these `names`. Raises FormatError where something else stands there."""
    remedy = f"use --format {DENSE}, which holds every model"
    if factors := factored(model):
        raise FormatError(f"--format {kind}: two factors stand in the place of {factors[0]}; {remedy}")
    for index, block in enumerate(decoder_blocks(model)):
        if experts := experts_of(block):
            raise FormatError(
                f"--format {kind}: block {index} {experts[0][0].group} holds all experts in one parameter, and "
                f"checkpoints store them otherwise; {remedy}"
            )
    modules = dict(model.named_modules())
    found: dict[str, torch.nn.Linear] = {}
    for name in names:
        linear = modules[name]
        if not isinstance(linear, torch.nn.Linear):
            raise FormatError(f"--format {kind}: {name} is a {type(linear).__name__}, no nn.Linear; {remedy}")
        found[name] = linear
    return found


def dense_linears(model: PreTrainedModel, grids: Container[str]) -> list[str]:
    """Names of the linears that no grid holds, the head among them."""
    return [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name not in grids]


class _Writer:
    """Tensors on their way into shards, and config.json: all that is written while `save_pretrained` is not used."""

    def __init__(
        self,
        model: PreTrainedModel,
        kind: str,
        grids: Mapping[str, GridSpec],
        written: Written,
        kept: Kept | None = None,
    ) -> None:
        self.model, self.kind, self.grids, self.written = model, kind, grids, written
        self.folder = written.folder
        self.stem = {FACTORED: factored_format.STEM, SPQR: spqr_format.STEM}.get(kind, "model")
        self.kept = kept if kind in KEPT else None
        self.kept_names = {} if self.kept is None else {f"{blocks_name(model)}.{n}": n for n in self.kept.names()}
        self.files: dict[str, str] = {}  # file by tensor

    def write(self) -> None:
        """Write all tensors, then the configuration."""
        shard: dict[str, torch.Tensor] = {}
        size = 0
        for name, tensor in self._tensors():
            if shard and size + tensor.nbytes > SHARD_BYTES:
                self._write_shard(shard)
                shard, size = {}, 0
            shard[name] = tensor
            size += tensor.nbytes
        self._write_shard(shard)
        self._name_shards()
        self._write_config()

    def _write_shard(self, shard: Mapping[str, torch.Tensor]) -> None:
        from safetensors.torch import save_file

        name = f"{self.stem}-{len(set(self.files.values())) + 1:05d}.safetensors"
        save_file(dict(shard), self.folder / name, metadata={"format": "pt"})
        self.files.update(dict.fromkeys(shard, name))
        self.written.bytes += sum(tensor.nbytes for tensor in shard.values())

    def _name_shards(self) -> None:
        """One file has the name that loaders look for; several have an index."""
        shards = sorted(set(self.files.values()))
        if len(shards) == 1:
            (self.folder / shards[0]).rename(self.folder / f"{self.stem}.safetensors")
            return
        index = {"metadata": {"total_size": self.written.bytes}, "weight_map": self.files}
        (self.folder / f"{self.stem}.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor of the checkpoint by its name, in host memory; blocks first, each while it is resident."""
        prefix, blocks = blocks_name(self.model), decoder_blocks(self.model)
        tied = set(getattr(self.model, "all_tied_weights_keys", None) or ())
        for index in range(len(blocks)):
            following = index + 1 if index + 1 < len(blocks) else None
            with resident(self.model, index, following):
                for name, tensor in self._block(blocks[index], f"{prefix}.{index}"):
                    if name not in tied:
                        yield from self._stored(name, tensor)
        for name, tensor in self.model.state_dict().items():
            if not name.startswith(f"{prefix}.") and name not in tied:
                yield name, _plain(tensor)

    def _block(self, block: Any, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of a resident block by their names in the model; factors are multiplied where they must be."""
        if self.kind != FACTORED and factored(block):
            block = copy.deepcopy(block)
            self.written.merged += [f"{prefix}.{name}" for name in merge_factors(block)]
        for name, tensor in block.state_dict().items():
            yield f"{prefix}.{name}", tensor

    def _stored(self, name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """What the checkpoint holds of one tensor of the model: itself, or the parts of a packed weight."""
        linear = name.removesuffix(".weight")
        if linear == name or linear not in {**self.grids, **self.kept_names}:
            yield name, _plain(tensor)
            return
        self.written.packed_linears += 1
        self.written.packed_weights += tensor.numel()
        if self.kept is not None:
            parts = self.kept.packed(self.kept_names[linear], tensor)
        else:
            parts = packed_tensors(linear, tensor, PACKED[self.kind], self.grids[linear])
        for suffix, part in parts.items():
            self.written.packed_bytes += part.nbytes
            yield f"{linear}.{suffix}", _plain(part)

    def _write_config(self) -> None:
        self.model.config.save_pretrained(self.folder)
        _write_generation(self.model, self.folder)
        dtype = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        file = self.folder / "config.json"
        config = {**json.loads(file.read_text()), "dtype": dtype}
        if self.kind in PACKED:
            dense = dense_linears(self.model, self.grids)
            config["quantization_config"] = PACKED[self.kind].config(self.grids, dense)
        described = {} if self.kept is None else self.kept.describe(sorted(self.kept_names), dtype)
        if self.kind == BITSANDBYTES:
            left = dense_linears(self.model, self.kept_names)
            config["quantization_config"] = {**described, "llm_int8_skip_modules": left}
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        if self.kind == FACTORED:
            described = {"dtype": dtype, "linears": factored(self.model)}
            (self.folder / factored_format.NAMES).write_text(json.dumps(described, indent=2) + "\n")
        if self.kind == SPQR:
            (self.folder / spqr_format.SETTINGS).write_text(json.dumps(described, indent=2) + "\n")


def _write_generation(model: PreTrainedModel, folder: Path) -> None:
    """generation_config.json as the model has it: that of some models (a temperature without sampling) is refused by
    `save_pretrained`, and loaded by `from_pretrained`."""
    if getattr(model, "generation_config", None) is not None and model.can_generate():
        model.generation_config.to_json_file(folder / "generation_config.json")


@contextmanager
def _without_generation(model: PreTrainedModel) -> Iterator[None]:
    """The model with a generation configuration that `save_pretrained` takes."""
    given = getattr(model, "generation_config", None)
    if given is None:
        yield
        return
    model.generation_config = type(given)()
    try:
        yield
    finally:
        model.generation_config = given


def packed_tensors(linear: str, weight: torch.Tensor, packed: Format, grid: GridSpec) -> dict[str, torch.Tensor]:
    """What `packed` stores of a weight [rows, cols] on `grid`. Raises FormatError unless it gives the weight back."""
    try:
        codes = find_codes(weight, grid.bits, sym=grid.sym, group_size=grid.group_size, group_of=grid.group_of)
    except NotOnGridError as error:
        dtype = str(weight.dtype).removeprefix("torch.")
        fix = f"scale_dtype: {dtype}" if dtype != "float32" else "a method whose weights stay on its grids"
        raise FormatError(
            f"--format {packed.name}: {linear} cannot be stored without a change: {error}; measure the method with "
            f"{fix}, which is what ships, or use --format {DENSE}"
        ) from None
    if not torch.equal(codes.weight(), weight):
        raise FormatError(f"--format {packed.name}: the codes of {linear} do not give its weights back")
    return packed.tensors(codes)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in host memory with a storage of its own, as safetensors wants it."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _check_room(model: PreTrainedModel, out: Path, grids: Mapping[str, GridSpec]) -> None:
    """Raise SettingsError when the disk has not got room for the weights."""
    needed = 0.0
    for name, tensor in model.state_dict().items():
        grid = grids.get(name.removesuffix(".weight"))
        bits = 8 * tensor.element_size() if grid is None else _most_bits(grid, tensor.shape[1])
        needed += tensor.numel() * bits / 8
    free = shutil.disk_usage(nearest(out.absolute())).free
    if free < needed:
        raise SettingsError(
            f"--out {out}: the disk has {free / 2**20:,.1f} MiB free, the model may take {needed / 2**20:,.1f} MiB; "
            "give a folder on a larger disk"
        )


def _most_bits(grid: GridSpec, cols: int) -> float:
    """Bits of a packed weight at most: its code, and its share of a scale in float32, a zero point and padding."""
    return grid.bits + 1 + (32 + grid.bits + 8) / (grid.group_size or cols)


def nearest(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def _flush(folder: Path) -> None:
    """Wait until all files are on the disk, so that a power cut leaves no folder with holes under the final name."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
