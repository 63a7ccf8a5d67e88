"""Tensors are found under the names that transformers gives to the keys of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from calib.settings import SettingsError
from sweep.models import resolve_model
from sweep.weights.dense import DenseModel
from sweep.weights.hashes import weights_hash
from sweep.weights.streaming import StreamedModel
from tests.sweep.weights.conftest import Save, pair, rewrite


def test_keys_without_the_prefix_of_the_whole_model_are_found(edited: Path, llama: Path) -> None:
    def strip(content: dict[str, torch.Tensor]) -> None:
        for name in list(content):
            content[name.removeprefix("model.")] = content.pop(name)

    rewrite(edited, strip)
    _, streamed = pair(edited)
    assert weights_hash(streamed.model) == weights_hash(DenseModel(resolve_model(str(llama), "m")).model)


def test_weights_that_must_be_converted_are_refused(save: Save) -> None:
    with pytest.raises(SettingsError, match=r"experts.* is stored in parts that must be converted"):
        StreamedModel(resolve_model(str(save("mixtral")), "m"))
