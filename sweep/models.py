"""Models by name, and dense weights that are loaded once and given back fresh for every trial.

Planning must know which model a name means, without torch: `resolve_model` reads config files and safetensors headers
and makes a fingerprint. A worker then holds one `DenseModel`: methods compress it in place (they change weights, swap
linears for factors, fold norms), and `restore()` undoes all of it from a copy that stays in memory. The hard cases are
a fingerprint of many gigabytes (sampled, see `fingerprint_folder`) and a hash of the compressed weights that takes
no longer than reading them once (see `weights_hash`).
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from calib.files import expanded
from calib.settings import Label, SettingsError, parse, settings, suggestion
from calib.tokenizer import HUB_ID, hub_tokenizer_id, tokenizer_id
from methods.residency import home_of
from sweep.checkpoint import stored_tensors

if TYPE_CHECKING:
    import torch

MODELS = Path(__file__).parent / "reference" / "models"
DTYPES = ("auto", "float32", "bfloat16", "float16")
PLACEMENTS = ("auto", "whole", "streamed")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOCK_LINEAR = re.compile(r"model\.layers\.\d+\.((?:self_attn|mlp)\.\w+_proj)\.weight")
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")


@settings
class ModelEntry:
    """The keys of an entry of `models`; plain text stands for `model` alone."""

    model: str
    """A bundled name, a folder, or a hub id, with an optional `@revision`."""
    revision: str | None = None
    """Hub revision (a commit pins the model); the hub's `main` when none is given."""
    dtype: str = "auto"
    """auto (float32 on a CPU, the checkpoint's dtype on a GPU), float32, bfloat16 or float16."""
    max_length: int | None = Field(default=None, ge=8)
    """Context length used for evaluation, in tokens; the model's own when none is given."""
    name: Label | None = None
    """Label in tables and figures."""
    placement: str = "auto"
    """Where the weights are while trials run; a matter of speed and memory that changes no number.

    whole: all on the device. streamed: decoder blocks stay in their safetensors files, and each is on the device only
    while it is compressed or evaluated, with the next one; not for `fwsvd` and not for tasks that generate text. auto:
    streamed where a GPU (or the host, while loading) cannot hold the weights and 8 GiB besides; never on a CPU.
    """


@dataclass(frozen=True)
class ModelRef:
    """A model that a study names, known without loading it."""

    name: str
    path: str  # a folder, or a hub id
    revision: str | None  # of a hub id
    fingerprint: str  # of config and weights; for a hub id its name and revision
    tokenizer_id: str
    max_length: int | None  # tokens of context; None when the config is not at hand yet (a hub model not in the cache)
    parameters: int | None
    architecture: str | None
    dtype: str = "auto"
    stored_dtype: str | None = None  # of the checkpoint, where its config says so
    length_given: bool = False  # part of a trial's identity: max_length is not the folder's own, or of a hub model
    on_hub: bool = False
    placement: str = "auto"  # not part of a trial's identity

    def identity(self) -> dict[str, Any]:
        """What of the model can change a trial's numbers.

        `auto` stands for a rule, not for a dtype: it is the same study file, hence the same id, on a laptop (float32)
        and on a GPU (the checkpoint's dtype). The launcher refuses to mix the two in one results folder.
        """
        return {
            "model": self.fingerprint,
            "tokenizer": self.tokenizer_id,
            "dtype": self.dtype,
            "max_length": self.max_length if self.length_given else None,
        }

    def expected_dtype(self, device: str) -> str | None:
        """The dtype of the weights on `cpu` or `cuda`; None when only loading the checkpoint tells."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if device == "cpu" else self.stored_dtype


def bundled_models() -> list[str]:
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


def resolve_model(entry: Any, path: str) -> ModelRef:
    """The model that an entry of a study means; `path` is where the entry stands (`models[0]`). Loads no torch.

    Raises SettingsError for an unknown name, a folder without a model, or an unknown dtype.
    """
    given = parse(ModelEntry, {"model": entry} if isinstance(entry, str) else entry, path)
    if given.dtype not in DTYPES:
        raise SettingsError(f"{path}.dtype: unknown dtype '{given.dtype}'{suggestion(given.dtype, DTYPES)}")
    if given.placement not in PLACEMENTS:
        raise SettingsError(
            f"{path}.placement: unknown placement '{given.placement}'{suggestion(given.placement, PLACEMENTS)}"
        )
    location, _, at_revision = given.model.partition("@")
    if at_revision and given.revision and at_revision != given.revision:
        raise SettingsError(f"{path}: two revisions, {at_revision} and {given.revision}; give one")
    folder = MODELS / location if location in bundled_models() else expanded(location, path)
    if folder.is_dir():
        ref = _folder_model(location, folder, path)
        if at_revision or given.revision:
            raise SettingsError(f"{path}.revision: {location} is a folder, which has no revisions; leave it out")
    elif HUB_ID.match(location):
        ref = _hub_model(location, given.revision or at_revision or "main")
    elif "/" in location or location.startswith((".", "~")):
        raise SettingsError(f"{path}: there is no model folder '{location}'")
    else:
        raise SettingsError(
            f"{path}: unknown model '{location}'{suggestion(location, bundled_models())} "
            "(or give a folder such as ./my-model, or a hub id such as org/name)"
        )
    if given.max_length and ref.max_length and given.max_length > ref.max_length:
        raise SettingsError(f"{path}.max_length: expected at most the model's {ref.max_length}, got {given.max_length}")
    return replace(
        ref,
        name=given.name or ref.name,
        dtype=given.dtype,
        max_length=given.max_length or ref.max_length,
        length_given=given.max_length is not None and (ref.on_hub or given.max_length != ref.max_length),
        placement=given.placement,
    )


def _folder_model(location: str, folder: Path, path: str) -> ModelRef:
    if not (folder / "config.json").is_file():
        raise SettingsError(f"{path}: {folder} holds no config.json; give the folder of a saved transformers model")
    weights = weight_files(folder)
    if not weights:
        raise SettingsError(f"{path}: {folder} holds no *.safetensors weights; save the model with save_pretrained")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise SettingsError(f"{path}: {folder} holds no tokenizer; save the tokenizer beside the model")
    config = _read_config(folder / "config.json", path)
    return ModelRef(
        name=folder.resolve().name,
        path=str(folder.resolve()),
        revision=None,
        fingerprint=fingerprint_folder(str(folder.resolve())),
        tokenizer_id=tokenizer_id(folder),
        max_length=_context_length(config),
        parameters=_count_parameters(weights, config),
        architecture=(config.get("architectures") or [None])[0],
        stored_dtype=config.get("dtype") or config.get("torch_dtype"),
    )


def _hub_model(name: str, revision: str) -> ModelRef:
    """A hub model; its config is read when a copy is in the local cache, and never fetched here."""
    snapshot = _cached_snapshot(name, revision)
    config = _read_config(snapshot / "config.json", name) if snapshot else {}
    weights = weight_files(snapshot) if snapshot else []
    return ModelRef(
        name=name.rpartition("/")[2],
        path=name,
        revision=revision,
        fingerprint=f"{name}@{revision}",
        tokenizer_id=hub_tokenizer_id(name, revision),
        max_length=_context_length(config),
        parameters=_count_parameters(weights, config) if weights else None,
        architecture=(config.get("architectures") or [None])[0],
        stored_dtype=config.get("dtype") or config.get("torch_dtype"),
        on_hub=True,
    )


def _cached_snapshot(name: str, revision: str) -> Path | None:
    """The folder of a hub model in the local cache, by the cache's documented layout (no import, no network)."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    root = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{name.replace('/', '--')}"
    pointer = root / "refs" / revision
    commit = pointer.read_text().strip() if pointer.is_file() else revision
    snapshot = root / "snapshots" / commit
    return snapshot if (snapshot / "config.json").is_file() else None


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _read_config(file: Path, path: str) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {file} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise SettingsError(f"{path}: {file} is not a model's config")
    return config


def _context_length(config: Mapping[str, Any]) -> int | None:
    for part in (config, config.get("text_config") or {}):
        for key in _CONTEXT_KEYS:
            if isinstance(part.get(key), int):
                return int(part[key])
    return None


# fingerprints

_WHOLE = 64 * 2**20  # files up to 64 MiB are hashed whole
_SAMPLES, _SAMPLE = 256, 64 * 2**10  # of larger ones, 256 evenly spaced pieces of 64 KiB (16 MiB)


@lru_cache(maxsize=256)
def fingerprint_folder(folder: str) -> str:
    """16 hex digits over config.json and the weights, independent of where the folder lies.

    Weight files up to 64 MiB are hashed whole. Of a larger file the size, the header (names, shapes, dtypes) and 256
    evenly spaced pieces of 64 KiB are hashed: training or converting a model changes every piece, while an edit of a
    few bytes by hand can go unseen. A 13 GB model takes a fraction of a second.
    """
    digest = hashlib.sha256()
    for file in [Path(folder) / "config.json", *weight_files(Path(folder))]:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as stream:
            if size <= _WHOLE:
                digest.update(stream.read())
                continue
            digest.update(stream.read(8 + int.from_bytes(stream.read(8), "little")))
            for number in range(_SAMPLES):
                stream.seek((size - _SAMPLE) * number // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()[:16]


def _count_parameters(files: list[Path], config: Mapping[str, Any]) -> int:
    """Parameters from the safetensors headers; a tied output matrix that was saved as well counts once."""
    tied = config.get("tie_word_embeddings", False)
    stored = stored_tensors(files)
    return sum(math.prod(tensor.shape) for name, tensor in stored.items() if not (tied and name == "lm_head.weight"))


def linear_shapes(ref: ModelRef) -> dict[str, tuple[int, int]]:
    """(rows, cols) of the linears of a LLaMA-like decoder by their name in a block, from the safetensors headers.

    Empty where the names say nothing for sure: a hub model that is not here, or another architecture.
    """
    if ref.on_hub:
        return {}
    found = {}
    for name, tensor in stored_tensors(weight_files(Path(ref.path))).items():
        match = _BLOCK_LINEAR.fullmatch(name)
        if match and len(tensor.shape) == 2:
            found[match.group(1)] = (tensor.shape[0], tensor.shape[1])
    return found


# loading


def load_tokenizer(ref: ModelRef) -> Any:
    """The model's tokenizer. Raises SettingsError when it is neither on this machine nor reachable."""
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(ref.path, revision=ref.revision)
    except (OSError, ValueError) as error:
        raise SettingsError(unreachable(ref, error)) from None


def context_length(ref: ModelRef) -> int:
    """Tokens of context: what the study says, else the model's config (of a hub model fetched now)."""
    if ref.max_length is not None:
        return ref.max_length
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(ref.path, revision=ref.revision)
    except (OSError, ValueError) as error:
        raise SettingsError(unreachable(ref, error)) from None
    length = _context_length(config.to_dict())
    if length is None:
        raise SettingsError(f"models: the config of {ref.name} names no context length; give `max_length`")
    return length


def hub_commit(ref: ModelRef) -> str | None:
    """The commit that a hub model's revision means now, or in the local cache when offline; None for a folder.

    Raises SettingsError when the model is neither in the cache nor reachable.
    """
    if not ref.on_hub or ref.revision is None:
        return None
    if _COMMIT.fullmatch(ref.revision):
        return ref.revision
    import huggingface_hub

    try:
        file = huggingface_hub.hf_hub_download(ref.path, "config.json", revision=ref.revision)
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise SettingsError(unreachable(ref, error)) from None
    commit = Path(file).parent.name  # .../snapshots/COMMIT/config.json
    return commit if _COMMIT.fullmatch(commit) else None


def at_commit(ref: ModelRef, commit: str | None) -> ModelRef:
    """The model with its files taken from this commit, whatever its branch means by then."""
    return replace(ref, revision=commit) if commit else ref


def unreachable(ref: ModelRef, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    where = "download it first, log in with `hf auth login` if it is gated, or give a local folder"
    place = f"{ref.path}@{ref.revision}" if ref.revision else ref.path
    return f"models: {ref.name} ({place}) cannot be loaded: {reason}; {where}"


class DenseModel:
    """One model in memory: compressed in place by trials, and given back dense by `restore()`."""

    placement = "whole"

    def __init__(self, ref: ModelRef, device: str = "cpu", dtype: str | None = None) -> None:
        import transformers

        self.ref = ref
        chosen = dtype or ref.dtype
        if chosen == "auto" and device == "cpu":
            chosen = "float32"
        try:
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                ref.path, revision=ref.revision, dtype=chosen
            )
        except (OSError, ValueError) as error:
            raise SettingsError(unreachable(ref, error)) from None
        self.model: Any = model.to(device).eval().requires_grad_(False)
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
        import torch

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
        import torch

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


# the hash of compressed weights

_ROW = 2**16  # elements hashed with one vector of multipliers


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
    import torch

    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    flat = tensor.detach().contiguous().reshape(-1).view(integer)
    columns = _multipliers(_ROW, 1, str(flat.device))
    total = 0
    for start in range(0, flat.numel(), _ROW * 256):  # 16 Mi elements at a time: 128 MiB of int64
        piece = flat[start : start + _ROW * 256]
        rows = -(-piece.numel() // _ROW)
        padded = torch.zeros(rows * _ROW, dtype=torch.int64, device=flat.device)
        padded[: piece.numel()] = piece
        sums = (padded.view(rows, _ROW) * columns).sum(dim=1)
        total += int((sums * _multipliers(rows, 2 + start // _ROW, str(flat.device))).sum())
    return total % 2**64


@lru_cache(maxsize=64)
def _multipliers(count: int, seed: int, device: str) -> torch.Tensor:
    """Odd 64-bit numbers that depend on (seed, position) alone (the splitmix64 finalizer)."""
    import numpy as np
    import torch

    with np.errstate(over="ignore"):
        value = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        value += np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value = (value ^ (value >> np.uint64(31))) | np.uint64(1)
    return torch.from_numpy(value.view(np.int64)).to(device)
