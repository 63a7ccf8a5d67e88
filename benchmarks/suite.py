"""The shape of the calibration papers' zero-shot suite, as random requests and as local lm-eval tasks.

The real tasks need the Hugging Face hub; how long they take depends on how many documents, choices and tokens they
have and not on what they say. Lengths scatter around their means as those of real tasks do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sweep.evaluation.questions.requests import Requests, TaskRequests


@dataclass(frozen=True)
class TaskShape:
    """One task; lengths are mean tokens."""

    documents: int
    choices: int
    context: int
    continuation: int


SUITE = {
    "arc_easy": TaskShape(2376, 4, 26, 5),
    "arc_challenge": TaskShape(1172, 4, 31, 6),
    "boolq": TaskShape(3270, 2, 150, 1),
    "hellaswag": TaskShape(10042, 4, 62, 30),
    "lambada": TaskShape(5153, 1, 85, 2),
    "openbookqa": TaskShape(500, 4, 13, 4),
    "piqa": TaskShape(1838, 2, 12, 25),
    "rte": TaskShape(277, 2, 85, 1),
    "storycloze": TaskShape(1871, 2, 55, 14),
    "winogrande": TaskShape(1267, 2, 22, 6),
    "copa": TaskShape(100, 2, 11, 9),
}


@dataclass(frozen=True)
class Questions:
    """Requests, and which of them are the choices of one document."""

    requests: Requests
    document: np.ndarray  # (n,), int64: ascending

    def answers(self, loglikelihood: np.ndarray) -> np.ndarray:
        """(documents with several choices,): the number of the likeliest choice."""
        first = np.flatnonzero(np.diff(self.document, prepend=-1))
        sets = np.split(loglikelihood, first[1:])
        return np.asarray([int(np.argmax(choices)) for choices in sets if len(choices) > 1], np.int64)


@dataclass(frozen=True)
class Flips:
    """Decisions that two scorings of one request set take differently."""

    answers: int
    documents: int
    greedy: int
    requests: int

    def __str__(self) -> str:
        return f"{self.answers} of {self.documents:,} answers, {self.greedy} of {self.requests:,} is_greedy"


def flips(questions: Questions, one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> Flips:
    """From two pairs of (log-likelihoods, is_greedy)."""
    answers = questions.answers(one[0]) != questions.answers(other[0])
    greedy = one[1] != other[1]
    return Flips(int(answers.sum()), len(answers), int(greedy.sum()), len(greedy))


def random_questions(share: float, vocabulary: int, seed: int = 0) -> Questions:
    """A share of the suite's documents with random token ids below `vocabulary`."""
    rng = np.random.default_rng(seed)
    pairs, document = [], []
    for number, task in enumerate(_documents(share)):
        context = [1, *_tokens(rng, task.context, vocabulary)]
        pairs += [(context, _tokens(rng, task.continuation, vocabulary)) for _ in range(task.choices)]
        document += [number] * task.choices
    return Questions(Requests.pack(pairs, 2048), np.asarray(document))


def task_questions(tasks: TaskRequests) -> Questions:
    """The requests of real tasks. A document's choices are those with one number in one task."""
    document = np.zeros(len(tasks.requests), np.int64)
    count = 0
    for task in tasks.tasks:
        for call in task.calls:
            document[call.start : call.stop] = count + call.doc
        count += len(task.docs)
    return Questions(tasks.requests, document)


def write_tasks(folder: Path, share: float, seed: int = 0) -> list[str]:
    """Local lm-eval tasks in the suite's shape, metrics as in lm-eval's own; returns their names."""
    rng = np.random.default_rng(seed)
    names = []
    for name, task in SUITE.items():
        rows = [
            {
                "question": _words(rng, task.context),
                "choices": [_words(rng, task.continuation) for _ in range(task.choices)],
                "answer": int(rng.integers(task.choices)),
            }
            for _ in range(_count(task, share))
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(_task_config(name, task)))
        names.append(f"shape_{name}")
    return names


def _task_config(name: str, task: TaskShape) -> dict[str, Any]:
    if task.choices > 1:
        kind: dict[str, Any] = {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [
                {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
            ],
        }
    else:
        kind = {
            "output_type": "loglikelihood",
            "doc_to_target": "{{' ' + choices[0]}}",
            "metric_list": [
                {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
                {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            ],
        }
    return {
        "task": f"shape_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "metadata": {"version": 1.0},
        **kind,
    }


def _documents(share: float) -> Iterator[TaskShape]:
    for task in SUITE.values():
        for _ in range(_count(task, share)):
            yield task


def _count(task: TaskShape, share: float) -> int:
    return max(1, round(task.documents * share))


def _length(rng: np.random.Generator, mean: float) -> int:
    return max(1, round(mean * rng.gamma(9.0, 1 / 9.0)))


def _tokens(rng: np.random.Generator, mean: float, vocabulary: int) -> list[int]:
    return [int(token) for token in rng.integers(3, vocabulary, _length(rng, mean))]


def _words(rng: np.random.Generator, mean: float) -> str:
    """About `mean` tokens of the bundled tokenizer: made-up words of two syllables are two or three tokens."""
    syllables = ("ri", "sto", "hou", "gar", "li", "ver", "ne", "se", "den", "ght")
    words = rng.choice(syllables, (max(1, _length(rng, mean) // 2), 2))
    return " ".join("".join(word) for word in words)
