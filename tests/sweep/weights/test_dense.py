from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sweep.models import resolve_model
from sweep.weights.dense import DenseModel, Snapshot, place_of_copy
from sweep.weights.hashes import weights_hash


@pytest.fixture(scope="module")
def dense(tiny_model: Path) -> DenseModel:
    return DenseModel(resolve_model(str(tiny_model), "models[0]"))


def test_restore_gives_back_weights_modules_and_hooks(dense: DenseModel) -> None:
    before = weights_hash(dense.model)
    names = [name for name, _ in dense.model.named_modules()]
    block = dense.model.model.layers[0]
    with torch.no_grad():
        block.self_attn.q_proj.weight.mul_(2)  # in place
        block.input_layernorm.weight.zero_()  # a folded norm
    block.self_attn.k_proj.weight = nn.Parameter(torch.zeros(3, 3))  # another parameter
    block.self_attn.v_proj.weight.data = torch.zeros(5, 5)  # other data in the same parameter
    block.mlp.up_proj = nn.Sequential(nn.Linear(32, 2, bias=False), nn.Linear(2, 64, bias=False))  # two factors
    block.mlp.down_proj.register_forward_hook(lambda *_: None)
    block.mlp.extra = nn.Linear(1, 1)
    block.forward = lambda hidden, **_: hidden
    assert weights_hash(dense.model) != before
    dense.restore()
    assert weights_hash(dense.model) == before
    assert [name for name, _ in dense.model.named_modules()] == names
    assert not block.mlp.down_proj._forward_hooks
    assert "forward" not in block.__dict__


def test_restored_modules_still_share_their_configuration(dense: DenseModel) -> None:
    dense.restore()
    dense.model.set_attn_implementation("eager")
    try:
        assert dense.model.model.layers[0].self_attn.config._attn_implementation == "eager"
    finally:
        dense.model.set_attn_implementation("sdpa")


def test_restored_model_computes_what_the_dense_one_did(dense: DenseModel) -> None:
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        before = dense.model(tokens).logits.clone()
        dense.model.lm_head.weight.add_(1)
        dense.model.model.rotary_emb.inv_freq.mul_(3)
    dense.restore()
    with torch.no_grad():
        assert torch.equal(dense.model(tokens).logits, before)


def test_weights_on_a_processor_are_no_views_of_their_file(dense: DenseModel) -> None:
    assert all(weight.untyped_storage().resizable() for weight in dense.model.parameters())


def test_the_dense_copy_lies_where_there_is_room() -> None:
    assert place_of_copy(10, free=22, host=0) == "beside"
    assert place_of_copy(10, free=21, host=80) == "pinned"
    assert place_of_copy(10, free=21, host=79) == "loaded"


def test_what_was_loaded_serves_as_the_copy_where_memory_is_short(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = DenseModel(resolve_model(str(tiny_model), "models[0]")).model
    loaded = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    loaded["lm_head.weight"] = loaded["lm_head.weight"].half()  # read in another dtype: of no use
    monkeypatch.setattr("sweep.weights.dense._copies_place", lambda *_, **__: "loaded")
    snapshot = Snapshot(model, torch.device("cpu"), loaded=loaded)
    places = {dense.data_ptr() for _, dense in snapshot._copies}
    assert {weight.data_ptr() for name, weight in loaded.items() if name != "lm_head.weight"} <= places
    assert loaded["lm_head.weight"].data_ptr() not in places
    before = weights_hash(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    assert weights_hash(model) != before
    snapshot.restore()
    assert weights_hash(model) == before
