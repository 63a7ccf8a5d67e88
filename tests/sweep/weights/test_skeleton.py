from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from calib.settings import SettingsError
from sweep.checkpoints.tensors import INDEX
from sweep.models import resolve_model
from sweep.weights.hashes import weights_hash
from sweep.weights.streaming import StreamedModel
from tests.sweep.weights.conftest import STREAMABLE, Save, pair


@pytest.mark.parametrize("name", STREAMABLE)
def test_skeleton_has_the_tensors_of_the_whole_model(save: Save, name: str) -> None:
    dense, streamed = pair(save(name))
    assert streamed.parameters == dense.parameters
    assert weights_hash(streamed.model) == weights_hash(dense.model)
    whole = dict(dense.model.named_buffers())
    assert set(whole) == {name for name, _ in streamed.model.named_buffers()}
    for buffer, tensor in streamed.model.named_buffers():
        assert torch.equal(tensor, whole[buffer]), buffer
    head, embedding = streamed.model.get_output_embeddings(), streamed.model.get_input_embeddings()
    tied = dense.model.get_output_embeddings().weight is dense.model.get_input_embeddings().weight
    assert (head.weight is embedding.weight) == tied


def test_missing_shard_is_named(save: Save, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(save("llama-shards"), tmp_path / "shards"))
    ref = resolve_model(str(folder), "m")
    shard = sorted(json.loads((folder / INDEX).read_text())["weight_map"].values())[-1]
    (folder / shard).unlink()
    with pytest.raises(SettingsError, match=f"names {shard}, which is not there"):
        StreamedModel(ref)
