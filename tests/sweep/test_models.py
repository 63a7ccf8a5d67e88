from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from calib.settings import SettingsError
from sweep import models
from sweep.checkpoints.files import fingerprint_folder
from sweep.models import resolve_model
from sweep.weights.dense import DenseModel


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


def test_a_model_that_ships_apart_names_the_wheel_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.models.MODELS", tmp_path)
    with pytest.raises(SettingsError, match=r"'reference-17m' is not installed; .*\[models\]"):
        resolve_model("reference-17m", "models[0]")


def test_missing_folder_beside_others_is_not_taken_for_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"m: there is no folder 'models/mine', though there is 'models'"):
        resolve_model("models/mine", "m")
    assert resolve_model("models/mine@main", "m").on_hub
    assert resolve_model("org/mine", "m").on_hub
