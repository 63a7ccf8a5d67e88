"""A streamed model is written block by block, and its folder is that of the whole model."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from methods.base import parse_method
from methods.blockwise import compress_model, decoder_blocks
from sweep.compress import compress
from sweep.formats import writer
from sweep.formats.grids import grids_by_linear
from sweep.formats.writer import write_model
from sweep.models import resolve_model
from sweep.shipping.recompress import witness
from sweep.weights.dense import DenseModel
from sweep.weights.streaming import StreamedModel

METHODS: dict[str, tuple[str, Any]] = {
    "gptq": ("compressed-tensors", {"method": "gptq", "bits": 4, "group_size": 16, "scale_dtype": "float32"}),
    "gptq in its order": (
        "compressed-tensors",
        {"method": "gptq", "bits": 4, "group_size": 16, "static_groups": False, "scale_dtype": "float32"},
    ),
    "awq": ("compressed-tensors", {"method": "awq", "group_size": 16, "scale_steps": 3}),
    "spqr": ("spqr", {"method": "spqr"}),
    "nf4": ("bitsandbytes", {"method": "nf4", "double_quant": True}),
    "wanda": ("dense", {"method": "wanda"}),
    "rotation and rtn": (
        "compressed-tensors",
        [{"method": "rotation"}, {"method": "rtn", "group_size": 16, "scale_dtype": "float32"}],
    ),
    "svd": ("factored", {"method": "svd", "ratio": 0.6}),
    "svd merged": ("dense", {"method": "svd", "ratio": 0.6}),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_folder_is_that_of_the_whole_model(
    name: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, entry = METHODS[name]
    method = parse_method(entry, "method")
    tokens = np.random.default_rng(0).integers(3, 257, size=(4, 24), dtype=np.int32)
    ref = ref_of(tiny_model)
    resident: list[int] = []
    for dense in (DenseModel(ref), StreamedModel(ref, scratch=str(tmp_path))):
        model = dense.model
        (grids := tmp_path / f"{type(dense).__name__}-grids").mkdir()
        kept = witness(method, kind, grids)
        report = compress_model(model, method, None if method.data_free else tokens, witness=kept)
        if isinstance(dense, StreamedModel):
            monkeypatch.setattr(writer, "_plain", counting(decoder_blocks(model), resident))
        out = tmp_path / type(dense).__name__
        write_model(model, dense.tokenizer, out, kind, grids_by_linear(model, method, report), kept=kept)
    folders = [tmp_path / "DenseModel", tmp_path / "StreamedModel"]
    there, here = (sorted(path.name for path in folder.iterdir()) for folder in folders)
    assert there == here
    (weights,) = (p.name for p in folders[0].glob("*.safetensors"))
    whole, streamed = (load_file(folder / weights) for folder in folders)
    assert list(whole) == list(streamed)
    assert all(torch.equal(whole[key], streamed[key]) for key in whole)
    assert max(resident) == 1


def counting(blocks: Any, resident: list[int]) -> Any:
    """`writer._plain`, noting how many blocks have their weights when a tensor is copied."""
    plain = writer._plain

    def note(tensor: torch.Tensor) -> torch.Tensor:
        resident.append(sum(not any(p.is_meta for p in block.parameters()) for block in blocks))
        return plain(tensor)

    return note


@pytest.mark.parametrize("method", ["rtn", "nf4"])
def test_memory_does_not_grow_with_the_number_of_blocks(
    method: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tensors that are alive whenever a shard is written, from reading the model to its folder."""
    write_shard, alive = writer._Writer._write_shard, []

    def note(self: Any, shard: Any) -> None:
        alive.append(live_bytes())
        write_shard(self, shard)

    monkeypatch.setattr(writer._Writer, "_write_shard", note)
    monkeypatch.setattr(writer, "SHARD_BYTES", 8192)
    most = {}
    for blocks in (3, 13):
        dense = with_blocks(tiny_model, blocks, tmp_path / f"{blocks}")
        before = live_bytes()
        alive.clear()
        compress({"model": str(dense), "placement": "streamed"}, method, None, tmp_path / f"{method}-{blocks}")
        assert len(alive) >= blocks
        most[blocks] = max(alive) - before
    block = sum(p.numel() * p.element_size() for p in decoder_blocks(DenseModel(ref_of(dense)).model)[0].parameters())
    assert most[13] - most[3] < 2 * block  # which of them are being read ahead is a matter of time


def with_blocks(folder: Path, blocks: int, out: Path) -> Path:
    """The model of `folder` with so many random blocks."""
    import transformers

    shutil.copytree(folder, out)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.num_hidden_layers = blocks
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(out)
    return out


def live_bytes() -> int:
    """Bytes of all tensors that somebody holds, each storage once."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor) and not thing.is_meta]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def ref_of(folder: Path) -> Any:
    return resolve_model(str(folder), "models[0]")
