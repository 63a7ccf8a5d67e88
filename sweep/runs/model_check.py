"""What must be true of a model before a worker is started for it: its files are the model, all of it, and numbers.

Runs on a CPU while calibration sets and requests are built, so a checkpoint that is not the model ends the study with
one line while it still costs nothing. The model is built without weights, and the loader of transformers is asked what
it would do with the tensors that the headers name. Weights are read here when there are few (`READ_HERE`); of large
models the worker that loads them looks at each tensor as it arrives, since reading them twice can take minutes. The
hard case is a hub model that is not on this machine: its config is fetched and judged, the rest by the worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from calib.settings import SettingsError
from methods.base import Method
from methods.blockwise import steps_of
from methods.lazy import torch
from methods.walk.checks import check_weighted
from methods.walk.decoder import decoder_blocks
from methods.walk.tied import refuse_tied
from sweep.checkpoints.files import describe_folder, describe_snapshot, has_all_weights
from sweep.checkpoints.integrity import refuse_not_finite
from sweep.checkpoints.tensors import DERIVED, FLOATS, Stored, checkpoint_tensors
from sweep.models import ModelRef, at_commit, cached_snapshot, hub_commit, load_config, local_files
from sweep.study_file.evaluation import refuse_all_blocks
from sweep.weights.skeleton import build_skeleton, check_headers
from sweep.weights.streaming import sources_of_streamed

READ_HERE = 2 << 30  # bytes of weights: a few seconds


def check_model(
    ref: ModelRef, methods: Sequence[Method] = (), weighed: bool = False, first_blocks: int | None = None
) -> int:
    """Refuse a model that cannot be measured as it is; returns the rows of its embedding, the ids that it knows.

    `methods` are those that will compress it, some with tokens that count more or less than once where it is `weighed`,
    and no more than the `first_blocks` where such a number is given. Raises SettingsError naming the model, the tensor
    or file, the value and the remedy.
    """
    ref = local_files(at_commit(ref, hub_commit(ref)))
    folder = _folder(ref)
    if folder is not None:
        describe = describe_snapshot if ref.on_hub else describe_folder  # the files may have changed since planning
        describe(folder, f"models: {ref.name}", trusted=ref.trust_remote_code)
    skeleton = build_skeleton(ref, load_config(ref))
    blocks = decoder_blocks(skeleton)
    if first_blocks is not None:
        refuse_all_blocks(first_blocks, ref.name, len(blocks))
    if folder is not None and has_all_weights(folder):
        stored = checkpoint_tensors(folder)
        check_headers(ref, skeleton, stored)
        if ref.placement == "streamed":
            sources_of_streamed(skeleton, stored)
        if sum(tensor.size for tensor in stored.values()) <= READ_HERE:
            refuse_not_finite(ref.name, _weights(stored, ref.dtype))
    for method in methods:
        refuse_tied(blocks, method)
        _check_structure(ref, skeleton, method)
        if weighed:
            _check_weighed(ref, skeleton, method)
    return _embedding_rows(ref, skeleton)


def _check_structure(ref: ModelRef, skeleton: Any, method: Method) -> None:
    for step in steps_of(method):
        try:
            step.check_model(skeleton)
        except SettingsError as error:
            raise SettingsError(f"models: {ref.name}, {method.label}: {error}") from None


def _check_weighed(ref: ModelRef, skeleton: Any, method: Method) -> None:
    try:
        check_weighted(skeleton, steps_of(method))
    except SettingsError as error:
        raise SettingsError(f"calibration.part and length_weights: {ref.name}, {method.label}: {error}") from None


def _folder(ref: ModelRef) -> Path | None:
    if not ref.on_hub:
        return Path(ref.path)
    return cached_snapshot(ref.path, ref.revision or "main")


def _weights(stored: Mapping[str, Stored], dtype: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The floating-point tensors by name, in the dtype that the study asks for."""
    import safetensors

    files: dict[Path, Any] = {}
    for name, tensor in stored.items():
        if tensor.dtype not in FLOATS or DERIVED.search(name):
            continue
        if tensor.file not in files:
            files[tensor.file] = safetensors.safe_open(tensor.file, framework="pt")
        weight = files[tensor.file].get_tensor(name)
        yield name, weight if dtype == "auto" else weight.to(getattr(torch, dtype))


def _embedding_rows(ref: ModelRef, skeleton: Any) -> int:
    embedding = skeleton.get_input_embeddings()
    weight = getattr(embedding, "weight", None)
    if weight is None:
        raise SettingsError(
            f"models: {ref.name}: {type(skeleton).__name__} has no token embedding; give a decoder-only causal "
            "language model"
        )
    return int(weight.shape[0])
