"""A tiny tokenizer and tiny texts, built in memory; no test here needs a network."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WORDS = [
    "the",
    "a",
    "of",
    "stream",
    "window",
    "model",
    "weight",
    "quantized",
    "sparse",
    "river",
    "über",
    "数据",
    "=",
    "(",
    ")",
]


def make_text(number: int, words: int = 60) -> str:
    """A document that differs from every other, in words that the tokenizer knows."""
    rng = np.random.default_rng(number)
    return f"document {number}: " + " ".join(rng.choice(WORDS, size=words))


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE with 400 tokens, as a transformers tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([make_text(number) for number in range(50)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def text_of() -> Callable[..., str]:
    return make_text


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes records to a JSON-lines file and returns its path."""

    def write(records: list[Any], name: str = "my.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return path

    return write


@pytest.fixture
def text_file(jsonl: Callable[..., Path]) -> Path:
    """40 documents of about 60 words."""
    return jsonl([{"text": make_text(number), "source": "test"} for number in range(40)])
