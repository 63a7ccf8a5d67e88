"""Dense weights come back from the checkpoint's files to the bit, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sweep.models import resolve_model
from sweep.weights import stored
from sweep.weights.dense import DenseModel
from sweep.weights.hashes import weights_hash
from sweep.weights.stored import StoredWeight, stored_weights
from tests.sweep.weights.conftest import Save, rewrite


@pytest.fixture(autouse=True)
def small_pieces_of_small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "LEAST", 0)
    monkeypatch.setattr(stored, "PIECE", 1000)


def load(folder: Path, **entry: Any) -> DenseModel:
    return DenseModel(resolve_model({"model": str(folder), **entry}, "models[0]"))


def in_files(dense: DenseModel) -> set[int]:
    """Ids of the weights that have no copy in memory."""
    return {id(tensor) for tensor, copy in dense._snapshot._copies if isinstance(copy, StoredWeight)}


def spoil(dense: DenseModel) -> None:
    """Change all weights, most of them in place."""
    weights = list(dense.model.parameters())
    with torch.no_grad():
        for weight in weights:
            weight.mul_(2).add_(1)
    weights[0].data = torch.zeros(3, 5)
    weights[1].data = weights[1].data.half()
    matrix = next(weight for weight in weights[2:] if weight.dim() == 2)
    matrix.data = torch.zeros(matrix.shape[::-1]).T  # of this shape, in another order


def saved_in(folder: Path, dtype: torch.dtype) -> None:
    def change(content: dict[str, torch.Tensor]) -> None:
        content.update({name: tensor.to(dtype) for name, tensor in content.items()})

    rewrite(folder, change)


@pytest.mark.parametrize("name", ["llama", "llama-tied", "llama-shards", "gpt2"])
def test_every_weight_comes_back_from_the_files(save: Save, name: str) -> None:
    dense = load(save(name))
    before = weights_hash(dense.model)
    assert in_files(dense) == {id(weight) for weight in dense.model.parameters()}
    for _ in range(2):
        spoil(dense)
        assert weights_hash(dense.model) != before
        dense.restore()
        assert weights_hash(dense.model) == before


@pytest.mark.parametrize(
    ("kept", "dtype", "shared"),
    [
        (torch.bfloat16, "auto", True),
        (torch.float16, "auto", True),
        (torch.bfloat16, "bfloat16", True),
        (torch.float32, "bfloat16", False),  # as large a file as two copies
        (torch.float16, "bfloat16", False),
    ],
)
def test_files_serve_where_the_model_holds_their_numbers_exactly(
    edited: Path, kept: torch.dtype, dtype: str, shared: bool
) -> None:
    saved_in(edited, kept)
    dense = load(edited, dtype=dtype)
    before = weights_hash(dense.model)
    assert bool(in_files(dense)) == shared
    spoil(dense)
    dense.restore()
    assert weights_hash(dense.model) == before


def test_weights_that_are_computed_while_loading_keep_their_copy(save: Save) -> None:
    dense = load(save("mixtral"))
    before = weights_hash(dense.model)
    assert not in_files(dense)
    spoil(dense)
    dense.restore()
    assert weights_hash(dense.model) == before


def test_a_weight_that_is_not_what_its_file_holds_is_left_out(edited: Path) -> None:
    dense = load(edited)
    zero = torch.zeros_like(dense.model.lm_head.weight)
    rewrite(edited, lambda content: content.update({"lm_head.weight": zero}))
    dense.model.lm_head.weight.data = -zero  # equal numbers, other bits
    assert set(dict(dense.model.named_parameters())) - set(stored_weights(dense.ref, dense.model)) == {"lm_head.weight"}


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), TypeError("rename() takes 5 arguments")])
def test_weights_that_cannot_be_looked_for_in_files_keep_their_copy(
    error: Exception, edited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(stored, "find_sources", fail)
    dense = load(edited)
    before = weights_hash(dense.model)
    assert not in_files(dense)
    spoil(dense)
    dense.restore()
    assert weights_hash(dense.model) == before


def test_small_models_keep_their_copy(edited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "LEAST", 1 << 20)
    assert not in_files(load(edited))


def test_files_of_a_hub_model_are_found_in_the_cache(edited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = load(edited)
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(stored, "cached_snapshot", lambda *given: asked.append(given) or edited)
    ref = replace(dense.ref, path="org/name", revision="abc", on_hub=True)
    assert len(stored_weights(ref, dense.model)) == len(in_files(dense))
    assert asked == [("org/name", "abc")]


def test_a_file_that_takes_the_name_of_another_changes_nothing(edited: Path) -> None:
    dense = load(edited)
    before = weights_hash(dense.model)
    new = shutil.copytree(edited, edited.with_name("new"))
    rewrite(new, lambda content: [tensor.add_(1) for tensor in content.values()])
    os.replace(new / "model.safetensors", edited / "model.safetensors")
    spoil(dense)
    dense.restore()
    assert weights_hash(dense.model) == before


def overwritten(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size - 8)
        opened.write(bytes(range(8)))


def cut_off(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            overwritten,
            r"model.safetensors was changed after it had been loaded, so the dense weights cannot be given back",
        ),
        (cut_off, r"model.safetensors (ended at byte .* cut off while it was in use|was changed after)"),
    ],
)
def test_a_file_that_changes_is_an_error_and_never_other_weights(
    edited: Path, change: Callable[[Path], None], message: str
) -> None:
    dense = load(edited)
    change(edited / "model.safetensors")
    for _ in range(2):
        with pytest.raises(OSError, match=message):
            dense.restore()
