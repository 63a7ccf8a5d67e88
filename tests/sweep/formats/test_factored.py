"""A folder of factors that is not whole is no model. The round trips stand in `test_writer.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from calib.settings import SettingsError
from methods.base import parse_method
from methods.blockwise import compress_model
from sweep.formats import factored
from sweep.formats.format import FormatError
from sweep.formats.writer import write_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model whose linears are two factors each, saved."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    with pytest.raises(FormatError, match="the model holds no low-rank factors; use --format dense"):
        write_model(model, None, tmp_path / "none", "factored")
    compress_model(model, parse_method({"method": "svd", "ratio": 0.6}, "method"), None)
    return write_model(model, None, tmp_path / "out", "factored").folder


def test_names_and_shapes_are_those_of_the_documentation(folder: Path) -> None:
    described = json.loads((folder / "factored.json").read_text())
    tensors = load_file(folder / "factored.safetensors")
    assert described["dtype"] == "float32"
    assert len(described["linears"]) == 7
    for name in described["linears"]:
        right, left = tensors[f"{name}.0.weight"], tensors[f"{name}.1.weight"]
        assert right.shape[0] == left.shape[1]
        assert f"{name}.weight" not in tensors


@pytest.mark.parametrize("name", ["config.json", "factored.json", "factored.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(SettingsError, match=f"holds no model in the format factored, {name} is missing"):
        factored.load(folder)


def test_a_missing_or_strange_tensor_is_named(folder: Path) -> None:
    file = folder / "factored.safetensors"
    tensors = load_file(file)
    norm = tensors.pop("model.norm.weight")
    save_file({**tensors, "strange": norm}, file)
    with pytest.raises(SettingsError, match=r"do not fit config\.json: model\.norm\.weight, strange"):
        factored.load(folder)
