"""A tiny random model with its tokenizer, a text file and a study of it, and a way to run the launcher in a process."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from sweep.study_file.document import apply_override

TEXT = "the a river stone walked slowly over under bright old house of and to see green again while never"
WORDS = TEXT.split()


def write_documents(path: Path, documents: int = 40, words: int = 120, seed: int = 0) -> Path:
    """A JSONL file of random sentences, equal for equal seeds."""
    rng = random.Random(seed)
    lines = [json.dumps({"text": " ".join(rng.choices(WORDS, k=words))}) for _ in range(documents)]
    path.write_text("\n".join(lines))
    return path


def write_tiny_model(folder: Path, *, context: int = 64, seed: int = 0, blocks: int = 2) -> Path:
    """A LLaMA of few blocks with random weights and a byte-level tokenizer, saved as transformers saves it."""
    import tokenizers
    import torch
    import transformers

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<|end|>", *alphabet])}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|end|>", bos_token="<|end|>", model_max_length=context
    )
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(seed)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_tasks(folder: Path, seed: int = 3) -> Path:
    """Two small lm-eval tasks in a group `tiny`, with their data beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for name in ("tiny_a", "tiny_b"):
        documents = [
            {
                "question": " ".join(rng.choices(WORDS, k=4)),
                "choices": [" ".join(rng.choices(WORDS, k=2)) for _ in range(3)],
                "answer": rng.randrange(3),
            }
            for _ in range(12)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(document) for document in documents))
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
            "output_type": "multiple_choice",
            "test_split": "test",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [
                {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
            ],
            "metadata": {"version": 1.0},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    group = {
        "group": "tiny",
        "task": ["tiny_a", "tiny_b"],
        "aggregate_metric_list": [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}],
        "metadata": {"version": 1.0},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(group))
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model with a context of 64 tokens."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model with other weights and the same tokenizer."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture(scope="session")
def tiny_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two calibration texts and one held-out text."""
    folder = tmp_path_factory.mktemp("texts")
    for number, name in enumerate(("rivers", "stones", "heldout")):
        write_documents(folder / f"{name}.jsonl", seed=number)
    return folder


@pytest.fixture(scope="session")
def tiny_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two lm-eval tasks in a group."""
    return write_tasks(tmp_path_factory.mktemp("tasks") / "tiny_tasks")


@pytest.fixture
def document(tiny_model: Path, tiny_texts: Path, tiny_tasks: Path) -> dict[str, Any]:
    """A study of seven trials: dense, RTN, and GPTQ and Wanda with two sources; no network, a few seconds."""
    return {
        "study": "tiny",
        "models": [str(tiny_model)],
        "methods": [
            {"method": "rtn", "bits": 3, "group_size": 16},
            {"method": "gptq", "bits": 3, "group_size": 16},
            {"method": "wanda", "sparsity": 0.5},
        ],
        "calibration": {
            "source": [
                {"source": "file", "path": str(tiny_texts / "rivers.jsonl")},
                {"source": "file", "path": str(tiny_texts / "stones.jsonl")},
            ],
            "sets": 1,
            "nsamples": 4,
            "seqlen": 32,
        },
        "evaluation": {
            "tasks": ["tiny"],
            "task_path": str(tiny_tasks),
            "limit": 6,
            "heldout": [{"source": "file", "path": str(tiny_texts / "heldout.jsonl")}],
            "heldout_windows": 2,
            "heldout_seqlen": 32,
        },
    }


def changed(document: dict[str, Any], *overrides: str) -> dict[str, Any]:
    """A copy of the study's document with values set as `--set` sets them."""
    result = copy.deepcopy(document)
    for override in overrides:
        apply_override(result, override)
    return result


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    """Writes a study file and returns its path."""

    def write(content: dict[str, Any]) -> str:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return str(path)

    return write


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python in a process of its own, in an empty working directory."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=launch_environment(**environment),
            capture_output=True,
            text=True,
            check=False,
        )

    return call


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the launcher in this process, in an empty working directory."""
    from sweep.launch import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sweep.storage.lease.SETTLE", (0.0, 0.0))  # nobody else launches

    def call(*arguments: str) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


def launch_environment(**more: str) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return {
        **os.environ,
        "PYTHONPATH": root,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_worker_niceness": "0",  # Ray would let its workers starve beside other work
        "COLUMNS": "200",
        **more,
    }


@pytest.fixture
def start_launch(tmp_path: Path) -> Any:
    """Starts `python -m sweep.launch` in the background; what still runs at the end of the test is killed."""
    running: list[subprocess.Popen[str]] = []

    def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
        # what a shell runs in the background ignores interrupts, and so would what that starts
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "sweep.launch", *arguments],
                cwd=tmp_path,
                env=launch_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
