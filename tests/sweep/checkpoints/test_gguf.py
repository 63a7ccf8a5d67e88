"""GGUF files become models of transformers: the same numbers as its own reader, the same logits as what was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from calib.settings import SettingsError
from sweep.checkpoints import gguf as conversion
from sweep.checkpoints.gguf import cache_folder, converted_folder, describe_gguf
from sweep.checkpoints.gguf_file import QUANTIZATIONS, GgufTensor
from sweep.models import linear_shapes, load_tokenizer, local_files, resolve_model
from sweep.weights.dense import DenseModel
from sweep.weights.streaming import StreamedModel
from tests.sweep.checkpoints.gguf_files import tiny_model, write_gguf


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches"


def folder_of(path: Path) -> Path:
    return Path(local_files(resolve_model(str(path), "models[0]")).path)


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        return model(ids).logits


FAMILIES = {
    "llama": {},
    "llama tied": {"tie_word_embeddings": True},
    "llama with biases": {"attention_bias": True},
    "llama with one head of keys": {"num_key_value_heads": 1},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": {},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_converted_model_is_the_one_that_was_written(family: str, tmp_path: Path) -> None:
    model = tiny_model(family.split()[0], **FAMILIES[family])
    folder = folder_of(write_gguf(tmp_path / "m.gguf", model))
    again = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert type(again) is type(model)
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("scaling", [{"rope_type": "linear", "factor": 4.0}, "llama3"])
def test_scaled_positions_are_those_of_the_model(scaling: Any, tmp_path: Path) -> None:
    theta = {"rope_theta": 500000.0}
    if scaling == "llama3":
        shape = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        model = tiny_model(rope_parameters={"rope_type": "llama3", "factor": 8.0, **shape, **theta})
        plain = 500000.0 ** -(np.arange(0, 16, 2) / 16)
        divisors = (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
        path = write_gguf(tmp_path / "m.gguf", model, tensors={"rope_freqs.weight": divisors})
    else:
        model = tiny_model(rope_parameters={**scaling, **theta})
        fields = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
        path = write_gguf(tmp_path / "m.gguf", model, fields=fields)
    again = transformers.AutoModelForCausalLM.from_pretrained(folder_of(path))
    assert torch.equal(again.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    assert not torch.equal(logits(again), logits(tiny_model(rope_parameters={"rope_type": "default", **theta})))


@pytest.mark.parametrize("quantization", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_weights_are_those_of_transformers_own_reader(quantization: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", quantization=quantization)
    ours = transformers.AutoModelForCausalLM.from_pretrained(folder_of(path), dtype=torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    found = theirs.state_dict()
    for name, weight in ours.state_dict().items():
        assert torch.equal(weight, found[name]), name
    config = json.loads((folder_of(path) / "config.json").read_text())
    assert config["dtype"] == {"F16": "float16", "BF16": "bfloat16"}.get(quantization, "float32")


@pytest.mark.parametrize("name", [name for name, block, _ in QUANTIZATIONS.values() if block > 1])
def test_blocks_of_every_quantization_are_the_numbers_of_the_package(name: str, tmp_path: Path) -> None:
    """The package cannot write all of them, so the blocks are random bytes."""
    number, (_, block, size) = next((key, kind) for key, kind in QUANTIZATIONS.items() if kind[0] == name)
    raw = np.random.default_rng(0).integers(0, 60, (4, 2 * size), dtype=np.uint8)  # no byte makes a scale infinite
    (tmp_path / "raw").write_bytes(raw.tobytes())
    with (tmp_path / "raw").open("rb") as stream:
        dense = conversion._dense(stream, GgufTensor(name, number, (4, 2 * block), 0, raw.size))
    assert dense.shape == (4, 2 * block)
    assert np.isfinite(dense).all()
    assert dense.any()
    np.testing.assert_array_equal(dense, gguf.dequantize(raw, gguf.GGMLQuantizationType[name]))


def test_a_model_is_converted_once_for_each_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = folder_of(write_gguf(tmp_path / "a.gguf"))
    (tmp_path / "b.gguf").write_bytes((tmp_path / "a.gguf").read_bytes())

    def never(*_: Any) -> None:
        raise AssertionError("converted again")

    with monkeypatch.context() as patched:
        patched.setattr(conversion, "_write_weights", never)
        assert folder_of(tmp_path / "b.gguf") == first
    other = tiny_model()
    with torch.no_grad():
        other.model.norm.weight.add_(1)
    assert folder_of(write_gguf(tmp_path / "b.gguf", other)) != first


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "a.gguf")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(conversion, "_write_weights", full)
        with pytest.raises(SettingsError, match=r"a\.gguf cannot be converted .*No space left.*XDG_CACHE_HOME"):
            folder_of(path)
    assert [item.suffix for item in cache_folder().iterdir()] == [".lock"]
    assert (folder_of(path) / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_conversion_that_is_not_as_it_was_made_is_made_again(tmp_path: Path, name: str, harm: str) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    file = folder_of(path) / name
    before = file.read_bytes()
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert folder_of(path) == file.parent
    assert file.read_bytes() == before


def test_what_a_killed_conversion_left_is_removed(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    folder = folder_of(path)
    left, others = folder.parent / f".{folder.name}.killed", folder.parent / ".of another model"
    left.mkdir()
    others.mkdir()
    made = folder.stat().st_mtime_ns
    assert folder_of(path).stat().st_mtime_ns == made
    assert not left.exists() and others.is_dir()


def test_a_file_that_changed_since_planning_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    found = describe_gguf(path, "models[0]")
    write_gguf(path, tiny_model(hidden_size=32))
    with pytest.raises(SettingsError, match=r"a\.gguf has changed since the study was planned"):
        converted_folder(path, found.fingerprint, "models[0]")


def test_planning_writes_nothing_and_knows_the_model(tmp_path: Path, caches: Path) -> None:
    model = tiny_model()
    ref = resolve_model({"model": str(write_gguf(tmp_path / "small.gguf", model)), "max_length": 64}, "models[0]")
    assert (ref.name, ref.max_length, ref.architecture) == ("small", 64, "LlamaForCausalLM")
    assert ref.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert linear_shapes(ref)["mlp.down_proj"] == (64, 96)
    assert linear_shapes(ref) == linear_shapes(local_files(ref))
    other = resolve_model(str(write_gguf(tmp_path / "other.gguf", model, fields={"tokenizer.chat_template": "x"})), "m")
    assert other.tokenizer_id != ref.tokenizer_id


def test_nothing_is_converted_while_planning(tmp_path: Path, caches: Path) -> None:
    resolve_model(str(write_gguf(tmp_path / "small.gguf")), "models[0]")
    assert not caches.exists()


def test_whole_and_streamed_are_the_same_model(tmp_path: Path) -> None:
    model = tiny_model()
    ref = resolve_model(str(write_gguf(tmp_path / "m.gguf", model)), "models[0]")
    whole, streamed = DenseModel(ref), StreamedModel(ref)
    assert torch.equal(logits(whole.model), logits(model))
    assert whole.parameters == streamed.parameters == ref.parameters
    assert load_tokenizer(ref)("the a")["input_ids"] == whole.tokenizer("the a")["input_ids"]


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    monkeypatch.setattr(conversion, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"^models\[0\]: .*m\.gguf.*the package gguf; .*calibration-sweep\[gguf\]"):
        resolve_model(str(path), "models[0]")
