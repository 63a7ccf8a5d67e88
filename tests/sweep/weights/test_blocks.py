from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calib.settings import SettingsError
from methods.base import CompressionError, get_method, parse_method
from methods.blockwise import compress_model, decoder_blocks
from sweep.evaluation.scorer.forward import head_rule
from sweep.evaluation.scorer.states import ModelCall, final_states
from sweep.models import resolve_model
from sweep.weights.dense import DenseModel
from sweep.weights.hashes import weights_hash
from sweep.weights.streaming import StreamedModel
from sweep.weights.tensors import DataFile
from tests.sweep.weights.conftest import LLAMA, METHODS, Save, pair, present


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_walk_holds_one_block_and_restore_gives_back_the_dense_model(
    llama: Path, tokens: np.ndarray, method: Any
) -> None:
    dense, streamed = pair(llama)
    before = weights_hash(streamed.model)
    names = [name for name, _ in streamed.model.named_modules()]
    seen = []
    for block in decoder_blocks(streamed.model):
        block.register_forward_pre_hook(lambda *_: seen.append(present(streamed.model)))
    chosen = parse_method(method, "m")
    report = compress_model(streamed.model, chosen, tokens)
    assert set(seen) <= {0, 1}  # 0: the forward that records and runs no block
    assert present(streamed.model) == 0
    expected = compress_model(dense.model, chosen, tokens)
    assert weights_hash(streamed.model) == weights_hash(dense.model) != before
    ours, theirs = ([replace(layer, seconds=0.0) for layer in made.layers] for made in (report, expected))
    assert ours == theirs
    streamed.restore()
    assert weights_hash(streamed.model) == before
    assert [name for name, _ in streamed.model.named_modules()] == names
    assert report.layers


@pytest.mark.parametrize(("name", "count"), [("llama", 1), ("gemma2", 2), ("gpt2", 1), ("opt", 1), ("falcon", 1)])
def test_sample_shows_every_kind_of_layer_and_is_given_back(save: Save, name: str, count: int) -> None:
    _, streamed = pair(save(name))
    blocks = decoder_blocks(streamed.model)
    with streamed.blocks.sample() as small:
        assert len(blocks) == count
        assert not any(parameter.is_meta for parameter in small.parameters())
        assert head_rule(small) is not None
        assert len(decoder_blocks(small)) == count
    assert len(decoder_blocks(streamed.model)) == len(blocks) == 3
    assert present(streamed.model) == 0


def test_failed_walk_leaves_no_weights_behind_and_restore_repairs_it(llama: Path, tokens: np.ndarray) -> None:
    _, streamed = pair(llama)
    before = weights_hash(streamed.model)
    broken = decoder_blocks(streamed.model)[1].mlp.down_proj
    broken.register_forward_pre_hook(lambda _, inputs: (inputs[0] * float("nan"),))
    with pytest.raises(CompressionError, match="block 1"):
        compress_model(streamed.model, get_method("gptq"), tokens)
    assert present(streamed.model) == 0
    streamed.restore()
    assert not broken._forward_pre_hooks
    assert weights_hash(streamed.model) == before


def test_changed_blocks_leave_no_file_in_the_scratch_folder(llama: Path, tokens: np.ndarray, tmp_path: Path) -> None:
    streamed = StreamedModel(resolve_model(str(llama), "m"), scratch=str(tmp_path))
    compress_model(streamed.model, get_method("rtn"), tokens)
    assert streamed.blocks.traffic.bytes_written > 0
    assert list(tmp_path.iterdir()) == []


def test_full_scratch_disk_is_one_clear_error(llama: Path, tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    _, streamed = pair(llama)
    monkeypatch.setattr(DataFile, "write", full)
    compress_model(streamed.model, get_method("rtn"), tokens)
    with pytest.raises(OSError, match=r"cannot be kept in .*No space left.*TMPDIR"), torch.inference_mode():
        list(final_states(streamed.model, [ModelCall(torch.arange(5)[None])]))
    streamed.restore()
    assert weights_hash(streamed.model) == weights_hash(DenseModel(streamed.ref).model)


def test_small_scratch_disk_is_refused_before_anything_runs(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(SettingsError, match="0.0 GiB free.*TMPDIR"):
        StreamedModel(resolve_model(str(llama), "m"))


def test_blocks_that_were_compressed_are_not_looked_at_again(llama: Path) -> None:
    streamed = StreamedModel(resolve_model(str(llama), "m"))
    weights_hash(streamed.model)
    with streamed.blocks.resident(1, changes=True):
        streamed.blocks.blocks[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with streamed.blocks.resident(1):
        assert streamed.blocks.blocks[1].mlp.up_proj.weight[0, 0].isnan()


@pytest.mark.gpu
def test_a_gpu_holds_two_blocks_at_most(tiny_model: Path, tmp_path: Path) -> None:
    import transformers

    settings = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 10, "num_attention_heads": 8}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**LLAMA, **settings})).to(torch.bfloat16)
    shutil.copytree(tiny_model, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model.save_pretrained(tmp_path / "m")
    ref = resolve_model({"model": str(tmp_path / "m"), "dtype": "bfloat16"}, "m")
    streamed = StreamedModel(ref, "cuda")
    block = streamed.blocks.bytes / 10
    square = torch.ones(16, 16, dtype=torch.bfloat16, device="cuda")
    torch.mm(square, square)  # cuBLAS keeps memory of its own from its first product on
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        list(final_states(streamed.model, [ModelCall(torch.arange(16, device="cuda")[None])]))
    assert 1.9 * block < torch.cuda.max_memory_allocated() - before < 2.4 * block
    expected = weights_hash(model.cuda())
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        assert weights_hash(streamed.model) == expected
        compress_model(
            streamed.model, get_method("svd", ratio=0.5), None
        )  # frees dense weights in the middle of a block
        streamed.restore()
