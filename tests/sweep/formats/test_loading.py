"""What is no shipped folder is refused. The round trips stand in `test_writer.py`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from calib.settings import SettingsError
from sweep.formats.loading import load


def test_plain_weights_are_read_as_transformers_reads_them(tiny_model: Path) -> None:
    import transformers

    tokens = torch.arange(20).view(1, 20)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype="auto")
    with torch.no_grad():
        assert torch.equal(load(tiny_model)(tokens).logits, plain(tokens).logits)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"holds no model, config\.json is missing"):
        load(tmp_path)


def test_a_cut_file_of_tensors_is_said(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "cut"))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(SettingsError, match=rf"^{folder}: a file of tensors is damaged .*; copy or export the folder"):
        load(folder)


def test_another_quantization_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(
        SettingsError, match="quant_method is 'fp8', not compressed-tensors or gptq or awq or bitsandbytes .4 bits.$"
    ):
        load(tmp_path)
