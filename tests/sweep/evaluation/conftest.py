"""Tiny models, a tiny tokenizer and local tasks, all made in memory or in a temporary folder."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "bird",
    "river",
    "stone",
    "house",
    "garden",
    "light",
    "night",
    "day",
    "runs",
    "sleeps",
    "sings",
    "falls",
    "grows",
    "burns",
    "old",
    "new",
    "red",
    "green",
    "blue",
    "small",
    "large",
    "quiet",
    "loud",
    "in",
    "on",
    "under",
    "over",
    "near",
    "behind",
    "and",
    "but",
    "because",
    "while",
    "if",
    "then",
    "who",
    "which",
]
CONTEXT = 96  # positions of the tiny models


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    rng = random.Random(0)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([sentence(rng, 12) for _ in range(300)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """A random float32 model of an architecture, seeded; weights are large enough for scores to differ."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    common: dict[str, Any] = {"vocab_size": 400, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    llama_like: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.2,
    }
    shapes: dict[str, dict[str, Any]] = {
        "llama": llama_like,
        "qwen2": llama_like,
        "mistral": {**llama_like, "sliding_window": 8},
        "gemma2": {**llama_like, "head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 2.0},
        "cohere": {**llama_like, "logit_scale": 0.25},
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "initializer_range": 0.2},
        "opt": {
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
            "word_embed_proj_dim": 32,
            "init_std": 0.2,
        },
        "gpt_neox": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
            "initializer_range": 0.2,
        },
        "gpt_neo": {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 24,
            "max_position_embeddings": CONTEXT,
            "initializer_range": 0.2,
        },
        "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2},
        "mixtral": {**llama_like, "num_local_experts": 4},
        "olmo2": llama_like,
        "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2},
        "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "initializer_range": 0.2},
    }

    def make(kind: str, seed: int = 0, dtype: Any = torch.float32, **changes: Any) -> Any:
        config = AutoConfig.for_model(kind, **{**common, **shapes[kind], **changes})
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()

    return make


@pytest.fixture(scope="session")
def task_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of local tasks of every request type; data files are named relative to their YAML."""
    folder = tmp_path_factory.mktemp("tasks")
    rng = random.Random(1)
    choice = [
        {
            "question": sentence(rng, rng.randint(1, 12)),
            "choices": [sentence(rng, rng.randint(1, 5)) for _ in range(4)],
            "answer": rng.randrange(4),
        }
        for _ in range(20)
    ]
    pairs = []
    for _ in range(12):
        shared = sentence(rng, 4)
        pairs.append({"good": f"{shared} {sentence(rng, 3)}", "bad": f"{shared} {sentence(rng, 2)}"})
    blanks = [
        {"options": [sentence(rng, 5), sentence(rng, 6)], "end": sentence(rng, 3), "answer": rng.randrange(2)}
        for _ in range(9)
    ]
    lambada = [{"text": sentence(rng, rng.randint(5, 40))} for _ in range(10)]
    texts = [{"page": sentence(rng, rng.randint(1, 150))} for _ in range(4)]
    numbers = [{"question": sentence(rng, 4), "answer": rng.choice(WORDS)} for _ in range(4)]
    for name, rows in (
        ("choice", choice),
        ("pairs", pairs),
        ("blanks", blanks),
        ("lambada", lambada),
        ("texts", texts),
        ("numbers", numbers),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    accuracy = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm", "acc_bytes")
    ]
    shown = {"training_split": "test", "fewshot_split": "test"}
    tasks: dict[str, dict[str, Any]] = {
        "choice": {
            "output_type": "multiple_choice",
            "doc_to_text": "Q: {{question}}\nA:",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "metric_list": accuracy,
            **shown,
        },
        "pairs": {
            "output_type": "multiple_choice",
            "doc_to_text": "",
            "doc_to_choice": "{{[good, bad]}}",
            "doc_to_target": 0,
            "metric_list": accuracy[:1],
        },
        "blanks": {
            "output_type": "multiple_choice",
            "doc_to_text": "{{answer}}",
            "doc_to_choice": "{{options}}",
            "doc_to_target": "{{end}}",
            "metric_list": accuracy[:1],
        },
        "lambada": {
            "output_type": "loglikelihood",
            "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
            "doc_to_target": "{{' '+text.split(' ')[-1]}}",
            "metric_list": [
                {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
                accuracy[0],
            ],
        },
        "texts": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{page}}",
            "metric_list": [
                {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
                {"metric": "byte_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
                {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
            ],
        },
        "numbers": {
            "output_type": "generate_until",
            "doc_to_text": "{{question}} is",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        },
    }
    for name, config in tasks.items():
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}}}
        whole = {"task": f"tiny_{name}", **data, "test_split": "test", **config, "metadata": {"version": 1.0}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(whole))
    _custom_task(folder)
    group = {
        "group": "tiny_group",
        "task": ["tiny_choice", "tiny_pairs", "tiny_blanks"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
        "metadata": {"version": 1.0},
    }
    (folder / "group.yaml").write_text(yaml.safe_dump(group))
    return folder


def _custom_task(folder: Path) -> None:
    """A task whose metrics are computed by a function in a file beside it."""
    (folder / "own_code.py").write_text(
        "def process_results(doc, results):\n"
        "    scores = [score for score, _ in results]\n"
        "    return {'acc': float(max(range(len(scores)), key=scores.__getitem__) == doc['answer']),\n"
        "            'spread': max(scores) - min(scores)}\n"
    )
    (folder / "custom.yaml").write_text(
        "task: tiny_custom\n"
        "dataset_path: json\n"
        "dataset_kwargs: {data_files: {test: choice.jsonl}}\n"
        "output_type: multiple_choice\n"
        "test_split: test\n"
        'doc_to_text: "{{question}}"\n'
        'doc_to_choice: "{{choices}}"\n'
        'doc_to_target: "{{answer}}"\n'
        "process_results: !function own_code.process_results\n"
        "metric_list:\n"
        "  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
        "  - {metric: spread, aggregation: mean, higher_is_better: true}\n"
        "metadata: {version: 1.0}\n"
    )


@pytest.fixture(scope="session")
def all_tasks() -> list[str]:
    return ["tiny_group", "tiny_lambada", "tiny_texts", "tiny_custom"]


@pytest.fixture(scope="session")
def lm_eval_scores(task_path: Path, tokenizer: Any) -> Callable[..., dict[str, Any]]:
    """What `lm_eval.simple_evaluate` with HFLM says; the reference for every number."""
    import logging

    logging.getLogger("lm_eval").setLevel(logging.ERROR)

    def score(model: Any, tasks: list[str], **arguments: Any) -> dict[str, Any]:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        from sweep.evaluation.questions.loading import path_aware_factory

        manager = TaskManager(include_path=str(task_path), include_defaults=False)
        manager._factory = path_aware_factory()
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, max_length=CONTEXT, softmax_dtype="float32")
        return simple_evaluate(wrapped, tasks=tasks, task_manager=manager, **{"bootstrap_iters": 0, **arguments})

    return score
