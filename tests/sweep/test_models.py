from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from calib.settings import SettingsError
from sweep import models
from sweep.checkpoints.files import fingerprint_folder
from sweep.models import DenseModel, resolve_model, weights_hash


@pytest.fixture(scope="module")
def dense(tiny_model: Path) -> DenseModel:
    return DenseModel(resolve_model(str(tiny_model), "models[0]"))


def test_folder_is_described_without_loading_it(tiny_model: Path, dense: DenseModel) -> None:
    ref = resolve_model(str(tiny_model), "models[0]")
    assert (ref.name, ref.max_length, ref.architecture) == ("tiny", 64, "LlamaForCausalLM")
    assert ref.parameters == dense.parameters
    assert len(ref.fingerprint) == len(ref.tokenizer_id) == 16


def test_tied_weights_count_once(tmp_path: Path, tiny_model: Path) -> None:
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(tiny_model)
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    folder = Path(shutil.copytree(tiny_model, tmp_path / "tied"))
    model.save_pretrained(folder)
    assert resolve_model(str(folder), "m").parameters == sum(weight.numel() for weight in model.parameters())


def test_hub_model_is_known_by_name_and_revision_without_network() -> None:
    ref = resolve_model("some-org/some-model@abc123", "m")
    assert (ref.name, ref.revision, ref.fingerprint) == ("some-model", "abc123", "some-org/some-model@abc123")
    assert ref.max_length is None
    assert ref.parameters is None
    assert ref.on_hub
    assert resolve_model({"model": "some-org/some-model", "revision": "abc123"}, "m").identity() == ref.identity()


def test_cached_hub_model_tells_its_context(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "models--org--name"
    shutil.copytree(tiny_model, root / "snapshots" / "c0ffee")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("c0ffee")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert resolve_model("org/name", "m").max_length == 64


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("referense-2m", "m: unknown model 'referense-2m', did you mean 'reference-2m'?"),
        ("./nowhere", "m: there is no model folder './nowhere'"),
        ({"model": "org/name", "dtype": "bfloat"}, "m.dtype: unknown dtype 'bfloat', did you mean 'bfloat16'?"),
        ({"modell": "org/name"}, "m.modell: unknown key 'modell', did you mean 'model'?"),
        ({"model": "org/name@a", "revision": "b"}, "m: two revisions, a and b"),
        (7, "m: expected a mapping"),
    ],
)
def test_wrong_model_is_named_with_remedy(entry: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "bundled_models", lambda: ["reference-2m", "reference-5m"])
    with pytest.raises(SettingsError) as error:
        resolve_model(entry, "m")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("missing", "message"),
    [("config.json", "no config.json"), ("model.safetensors", "no *.safetensors"), ("tokenizer.json", "no tokenizer")],
)
def test_incomplete_folder_is_explained(tiny_model: Path, tmp_path: Path, missing: str, message: str) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "broken"))
    (folder / missing).unlink()
    with pytest.raises(SettingsError) as error:
        resolve_model(str(folder), "models[0]")
    assert message in str(error.value)


def test_folder_may_have_an_at_in_its_path(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "me@host" / "m"))
    assert resolve_model(str(folder), "m").fingerprint == resolve_model(str(tiny_model), "m").fingerprint


def test_chosen_context_must_fit_the_model(tiny_model: Path) -> None:
    assert resolve_model({"model": str(tiny_model), "max_length": 32}, "m").max_length == 32
    with pytest.raises(SettingsError, match=r"m.max_length: expected at most the model's 64, got 65"):
        resolve_model({"model": str(tiny_model), "max_length": 65}, "m")


def test_restore_gives_back_weights_modules_and_hooks(dense: DenseModel) -> None:
    import torch
    from torch import nn

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
    import torch

    tokens = torch.arange(20)[None]
    with torch.no_grad():
        before = dense.model(tokens).logits.clone()
        dense.model.lm_head.weight.add_(1)
        dense.model.model.rotary_emb.inv_freq.mul_(3)
    dense.restore()
    with torch.no_grad():
        assert torch.equal(dense.model(tokens).logits, before)


def test_hash_of_weights_sees_every_bit_and_the_place(dense: DenseModel) -> None:
    import torch

    dense.restore()
    weight = dense.model.model.layers[1].mlp.up_proj.weight
    seen = {weights_hash(dense.model)}
    with torch.no_grad():
        weight[3, 5] = torch.nextafter(weight[3, 5], torch.tensor(9.0))  # the last bit of one number
        seen.add(weights_hash(dense.model))
        weight[[0, 1]] = weight[[1, 0]]  # the same numbers in other places
        seen.add(weights_hash(dense.model))
        weight[0, 0] = 0.0
        seen.add(weights_hash(dense.model))
        weight[0, 0] = -0.0
        seen.add(weights_hash(dense.model))
    dense.restore()
    assert len(seen) == 5
    assert weights_hash(dense.model) in seen


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "int8", "bool"])
def test_checksum_equals_its_plain_formula(dtype: str) -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(3, 30_001, generator=generator).mul(50).to(getattr(torch, dtype))
    size = tensor.element_size()
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    numbers = tensor.reshape(-1).view(kind).tolist()
    columns = models._multipliers(models._ROW, 1, "cpu").tolist()
    rows = models._multipliers(-(-len(numbers) // models._ROW), 2, "cpu").tolist()
    plain = sum(x * columns[i % models._ROW] * rows[i // models._ROW] for i, x in enumerate(numbers)) % 2**64
    assert models.checksum(tensor) == plain


def test_own_code_counts_only_where_it_may_run(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    plain = resolve_model(str(folder), "m")
    assert plain.identity() == resolve_model({"model": str(folder), "trust_remote_code": False}, "m").identity()
    seen = set()
    for code in ("a = 1", "a = 2"):
        (folder / "modeling_mine.py").write_text(code)
        assert resolve_model(str(folder), "m") == plain
        trusted = resolve_model({"model": str(folder), "trust_remote_code": True}, "m")
        assert trusted.identity()["trust_remote_code"]
        seen |= {trusted.fingerprint, trusted.tokenizer_id}
        fingerprint_folder.cache_clear()
    assert len(seen) == 4
    assert seen.isdisjoint({plain.fingerprint, plain.tokenizer_id})


def test_auto_dtype_is_float32_on_a_cpu(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "half"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    ref = resolve_model(str(folder), "m")
    assert ref.expected_dtype("cpu") == "float32"
    assert ref.expected_dtype("cuda") == "bfloat16"
    assert DenseModel(ref).dtype == "float32"
    assert DenseModel(resolve_model({"model": str(folder), "dtype": "bfloat16"}, "m")).dtype == "bfloat16"
