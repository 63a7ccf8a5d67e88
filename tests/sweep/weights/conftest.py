"""Tiny models of many architectures, and each of them held whole and streamed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from methods.blockwise import decoder_blocks
from sweep import plan
from sweep.config import parse_study
from sweep.models import resolve_model
from sweep.results import Results
from sweep.runs.local import LocalRunner
from sweep.runs.schedule import Job
from sweep.weights.dense import DenseModel
from sweep.weights.streaming import StreamedModel

IDS = {"vocab_size": 257, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
LLAMA = IDS | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
OPT = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "word_embed_proj_dim": 16}
SLIDING = {
    "head_dim": 8,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", LLAMA),
    "llama-tied": ("LlamaConfig", {**LLAMA, "tie_word_embeddings": True}),
    "llama-shards": ("LlamaConfig", LLAMA),
    "opt": ("OPTConfig", {**IDS, **OPT, "max_position_embeddings": 64}),
    "gpt2": ("GPT2Config", {**IDS, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}),
    "gemma2": ("Gemma2Config", {**LLAMA, **SLIDING}),
    "falcon": ("FalconConfig", {**IDS, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}),
    "mixtral": ("MixtralConfig", {**LLAMA, "num_local_experts": 4}),
    "dynamic": (
        "LlamaConfig",
        {
            **LLAMA,
            "max_position_embeddings": 16,
            "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
        },
    ),
}
STREAMABLE = [name for name in MODELS if name not in ("mixtral", "dynamic")]
METHODS: list[Any] = [
    {"method": "rtn", "bits": 3, "group_size": 16},
    {"method": "gptq", "bits": 3, "group_size": 16},
    {"method": "wanda", "sparsity": 0.5, "allocation": "owl"},
    {"method": "awq", "group_size": 16, "scale_steps": 3},
    {"method": "svd", "ratio": 0.6},
    [{"method": "joint_svd", "ratio": 0.6}, {"method": "rtn", "bits": 4}],
    [{"method": "sparsegpt", "sparsity": 0.5}, {"method": "gptq", "bits": 4, "group_size": 16}],
]
Save = Callable[..., Path]


@pytest.fixture(scope="module")
def save(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Saves a tiny random model of an architecture, with a tokenizer, and returns its folder."""
    import transformers

    root = tmp_path_factory.mktemp("streamed")

    def build(name: str) -> Path:
        folder = root / name
        if folder.exists():
            return folder
        config, settings = MODELS[name]
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**settings))
        with torch.no_grad():  # norms and biases that differ from their start, so that a wrong fold shows
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json", "gen*.json"))
        model.save_pretrained(folder, max_shard_size="20KB" if name.endswith("shards") else "1GB")
        return folder

    return build


@pytest.fixture(scope="module")
def llama(save: Save) -> Path:
    return save("llama")


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(3, 257, size=(4, 24), dtype=np.int32)


def pair(folder: Path, **entry: Any) -> tuple[DenseModel, StreamedModel]:
    ref = resolve_model({"model": str(folder), **entry}, "models[0]")
    return DenseModel(ref), StreamedModel(ref)


def present(model: Any) -> int:
    """Blocks that hold weights."""
    return sum(not parameter.is_meta for block in decoder_blocks(model) for parameter in [next(block.parameters())])


def run_study(document: dict[str, Any], root: Path) -> Results:
    from sweep.runs.provenance import provenance

    study = parse_study(document)
    plan.check(study)
    trials = plan.expand(study)
    runner = LocalRunner(str(root), provenance())
    runner.start()
    runner.prepare(plan.pools(trials), plan.request_sets(trials))
    outcomes = list(runner.run([Job(trial) for trial in trials]))
    assert [outcome.error for outcome in outcomes] == [None] * len(trials)
    return Results(root)


def numbers(results: Results) -> dict[str, pl.DataFrame]:
    """All tables but what differs from run to run: times, memory, the machine, and where the weights were."""
    machine = {"worker", "started", "device", "peak_memory", "placement", "files"}
    tables = {name: results.read(name) for name in ("trials", "metrics", "samples", "layers")}
    return {
        name: table.select(column for column in table.columns if column not in machine and "seconds" not in column)
        for name, table in tables.items()
    }


@pytest.fixture
def edited(llama: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(llama, tmp_path / "edited"))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    from safetensors.torch import load_file, save_file

    content = load_file(folder / "model.safetensors")
    change(content)
    save_file(content, folder / "model.safetensors", {"format": "pt"})
