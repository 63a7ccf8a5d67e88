"""What a folder tells of its model without torch."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from calib.settings import SettingsError
from sweep.checkpoints import files as model_files
from sweep.checkpoints.files import check_tensors, describe_folder, describe_snapshot, fingerprint_folder
from sweep.checkpoints.tensors import INDEX, SINGLE
from sweep.models import MODELS, resolve_model

SMALL = MODELS / "reference-2m"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SMALL, tmp_path / "m"))


def split(folder: Path) -> Path:
    """The weights in two files of the usual names, with their index."""
    raw = (folder / SINGLE).read_bytes()
    begin = 8 + struct.unpack("<Q", raw[:8])[0]
    header = {name: about for name, about in json.loads(raw[8:begin]).items() if name != "__metadata__"}
    named = {}
    for number in range(2):
        file = folder / f"model-0000{number + 1}-of-00002.safetensors"
        part: dict[str, Any] = {}
        data = b""
        for name in sorted(header)[number::2]:
            first, last = header[name]["data_offsets"]
            part[name] = {**header[name], "data_offsets": [len(data), len(data) + last - first]}
            data += raw[begin + first : begin + last]
            named[name] = file.name
        text = json.dumps(part).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": named}))
    return folder


def test_second_copy_of_the_weights_changes_neither_count_nor_fingerprint(folder: Path) -> None:
    before, fingerprint = describe_folder(folder, "m"), fingerprint_folder(str(folder))
    shutil.copy(folder / SINGLE, folder / "consolidated.safetensors")
    fingerprint_folder.cache_clear()
    assert describe_folder(folder, "m") == before
    assert fingerprint_folder(str(folder)) == fingerprint


def test_fingerprint_of_an_ordinary_folder_is_that_of_all_its_weight_files(folder: Path) -> None:
    for ordinary in (folder, split(Path(shutil.copytree(folder, folder.parent / "shards")))):
        digest = hashlib.sha256()
        for file in [ordinary / "config.json", *sorted(ordinary.glob("*.safetensors"))]:
            digest.update(f"{file.name}:{file.stat().st_size}:".encode() + file.read_bytes())
        assert fingerprint_folder(str(ordinary)) == digest.hexdigest()[:16]


def test_shards_count_like_one_file(folder: Path) -> None:
    assert describe_folder(split(folder), "m").parameters == describe_folder(SMALL, "m").parameters


def test_buffers_that_an_index_names_in_vain_are_no_fault(folder: Path) -> None:
    index = json.loads((split(folder) / INDEX).read_text())
    file = next(iter(index["weight_map"].values()))
    index["weight_map"]["model.layers.0.self_attn.rotary_emb.inv_freq"] = file
    (folder / INDEX).write_text(json.dumps(index))
    assert describe_folder(folder, "m").parameters == describe_folder(SMALL, "m").parameters


def test_tied_matrix_that_an_index_names_in_vain_is_no_fault(folder: Path) -> None:
    index = json.loads((split(folder) / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = index["weight_map"]["model.embed_tokens.weight"]
    (folder / INDEX).write_text(json.dumps(index))
    assert describe_folder(folder, "m").parameters == describe_folder(SMALL, "m").parameters


def test_tied_matrix_counts_once_whichever_is_stored() -> None:
    config = {"tie_word_embeddings": True}
    tensors = model_files.checkpoint_tensors(SMALL)
    count = model_files.count_parameters(tensors, config)
    head = tensors["model.embed_tokens.weight"]
    assert model_files.count_parameters({**tensors, "lm_head.weight": head}, config) == count
    others = {name: tensor for name, tensor in tensors.items() if name != "model.embed_tokens.weight"}
    assert model_files.count_parameters({**others, "lm_head.weight": head}, config) == count


@pytest.mark.parametrize("key", ["max_position_embeddings", "n_positions", "max_seq_len", "context_length"])
def test_context_is_known_by_every_name_that_configs_use(key: str) -> None:
    assert model_files.context_length_of({"model_type": "any", key: 2048}) == 2048
    assert model_files.context_length_of({"text_config": {key: 2048}}) == 2048


def test_layers_that_predict_further_tokens_may_be_stored_as_well(folder: Path) -> None:
    tensors = model_files.checkpoint_tensors(folder)
    name = next(name for name in tensors if name.startswith("model.layers.3."))
    more = {**tensors, name.replace(".3.", ".4."): tensors[name]}
    config = json.loads((folder / "config.json").read_text())
    with pytest.raises(SettingsError, match="has block 4 as well"):
        check_tensors(more, config, folder, "m")
    check_tensors(more, {**config, "num_nextn_predict_layers": 1}, folder, "m")


def test_a_block_may_count_as_two_layers(folder: Path) -> None:
    config = {**json.loads((folder / "config.json").read_text()), "num_hidden_layers": 8}
    tensors = model_files.checkpoint_tensors(folder)
    with pytest.raises(SettingsError, match="names 8 blocks .* lacks block 4"):
        check_tensors(tensors, config, folder, "m")
    check_tensors(tensors, {**config, "num_layers": 4}, folder, "m")


def test_snapshot_of_which_weights_are_still_missing_is_described(folder: Path) -> None:
    file = sorted(split(folder).glob("*.safetensors"))[0]
    file.unlink()
    about = describe_snapshot(folder, "m")
    assert (about.parameters, about.max_length) == (None, 512)
    with pytest.raises(SettingsError, match=f"names {file.name}, which is not there"):
        describe_folder(folder, "m")


def test_fingerprint_depends_on_content_and_not_on_the_place(
    tiny_model: Path, other_model: Path, tmp_path: Path
) -> None:
    ref = resolve_model(str(tiny_model), "m")
    copied = resolve_model(str(shutil.copytree(tiny_model, tmp_path / "elsewhere")), "m")
    other = resolve_model(str(other_model), "m")
    assert copied.fingerprint == ref.fingerprint
    assert other.fingerprint != ref.fingerprint
    assert other.tokenizer_id == ref.tokenizer_id


def test_large_file_is_sampled_from_end_to_end(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "HASHED_WHOLE", 1000)
    monkeypatch.setattr(model_files, "SAMPLE", 256)
    seen = set()
    for number, place in enumerate((None, 0.0, 0.5, 0.999)):
        folder = Path(shutil.copytree(tiny_model, tmp_path / str(number)))
        weights = folder / "model.safetensors"
        content = bytearray(weights.read_bytes())
        if place is not None:
            start = 8 + int.from_bytes(content[:8], "little")
            begin = start + int((len(content) - start) * place)
            content[begin : begin + 400] = bytes(byte ^ 1 for byte in content[begin : begin + 400])
        weights.write_bytes(content)
        seen.add(model_files.fingerprint_folder(str(folder)))
    assert len(seen) == 4
