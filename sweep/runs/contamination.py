"""What calibration sets share with the evaluation: n-grams in common, of words and of tokens, by task and text.

The words are those of a task's documents (every text in them: question, choices, answer) and of held-out windows; the
tokens are those of prompts as they are asked, with their few-shot examples and the right answer. Prompts with few-shot
examples and those that are continued are compared by words as well. Splits are judged by their content alone. It is
counted once for a set, while the study is prepared; `calib/overlap.py` says what n-grams are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.overlap import Grouped, grouped, index_texts, index_tokens, overlap_by_group
from calib.spec import CalibrationSet
from sweep.evaluation.questions.replay import Call, TaskReplay
from sweep.evaluation.suite import EvaluationData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Asked:
    """A task's documents, its prompts or a held-out text: as texts, as token ids, or both."""

    kind: str  # task | prompt | heldout
    name: str
    texts: Sequence[str]
    tokens: Sequence[np.ndarray]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """All that is asked, ready to be compared with any number of sets."""

    words: tuple[list[Asked], Grouped]
    tokens: tuple[list[Asked], Grouped]
    short: Mapping[str, np.ndarray]  # by unit: texts of each group that have fewer words or tokens than an n-gram


def asked_of(data: EvaluationData, tokenizer: PreTrainedTokenizerBase) -> list[Asked]:
    """What the evaluation asks: task by task, then text by text. Perturbed variants ask what their task does."""
    variants = tuple(noise.label for noise in data.settings.parsed_perturbations())
    found = []
    for task in data.tasks.tasks:
        if variants and task.name.endswith(variants):
            continue
        found.append(Asked("task", task.name, [" ".join(texts_in(doc)) for doc in task.docs], []))
        found.append(_prompts(task, data, tokenizer))
    for text in data.heldout:
        windows = list(text.tokens)
        found.append(Asked("heldout", text.label, _decoded(windows, tokenizer), windows))
    return found


def asked_texts(data: EvaluationData, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Every text that calibration documents must not share words with."""
    return [text for asked in asked_of(data, tokenizer) for text in asked.texts]


def evaluated(data: EvaluationData, tokenizer: PreTrainedTokenizerBase) -> Evaluated:
    """The indexes of all n-grams that are asked."""
    asked = asked_of(data, tokenizer)
    words = [one for one in asked if one.texts]
    tokens = [one for one in asked if one.tokens]
    of_words = [number for number, one in enumerate(words) for _ in one.texts]
    of_tokens = [number for number, one in enumerate(tokens) for _ in one.tokens]
    by_word = grouped(index_texts(text for one in words for text in one.texts), of_words, len(words))
    by_token = grouped(index_tokens(ids for one in tokens for ids in one.tokens), of_tokens, len(tokens))
    short = {"words": _short(by_word), "tokens": _short(by_token)}
    return Evaluated((words, by_word), (tokens, by_token), short)


def overlap_rows(calibration: CalibrationSet, known: Evaluated) -> list[dict[str, Any]]:
    """The rows of `overlap/` of one set."""
    rows = []
    for unit, (asked, groups) in (("words", known.words), ("tokens", known.tokens)):
        started = time.perf_counter()
        found = overlap_by_group(calibration.texts if unit == "words" else list(calibration.tokens), groups)
        seconds = time.perf_counter() - started
        for number, one in enumerate(asked):
            rows.append(
                {
                    "calibration_id": calibration.id,
                    "kind": one.kind,
                    "name": one.name,
                    "unit": unit,
                    "n": groups.index.n,
                    "texts": len(one.texts if unit == "words" else one.tokens),
                    "short": int(known.short[unit][number]),
                    "texts_shared": int(found.texts[number]),
                    "largest_share": float(found.share[number]),
                    "windows": len(calibration.tokens),
                    "windows_shared": int(found.windows[number]),
                    "seconds": seconds / len(asked),
                }
            )
    return rows


def _prompts(task: TaskReplay, data: EvaluationData, tokenizer: PreTrainedTokenizerBase) -> Asked:
    """The prompt of each document with its right answer; of tasks that score a whole text, all of it."""
    generated: dict[int, str] = {}
    scored: dict[int, list[np.ndarray]] = {}
    for call in task.calls:
        if call.kind == "generation":
            generated[call.doc] = data.tasks.generations[call.start].prompt
        elif call.kind == "rolling" or call.doc not in scored or _right(call, task):
            scored[call.doc] = [data.tasks.requests.sequence(number) for number in range(call.start, call.stop)]
    tokens = [sequence for document in scored.values() for sequence in document]
    texts = list(generated.values())
    if task.task.config.num_fewshot:
        texts += _decoded(tokens, tokenizer)
    if generated:
        encoded = tokenizer(list(generated.values()), add_special_tokens=False, verbose=False)["input_ids"]
        tokens += [np.asarray(ids, dtype=np.int32) for ids in encoded]
    return Asked("prompt", task.name, texts, tokens)


def _right(call: Call, task: TaskReplay) -> bool:
    return bool(task.right[call.doc]) and call.choice == task.right[call.doc][0]


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a document, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_in(inner)


def _decoded(tokens: Sequence[np.ndarray], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    if not tokens:
        return []
    ids = [window.tolist() for window in tokens]
    return list(tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _short(known: Grouped) -> np.ndarray:
    """Texts without an n-gram, by group."""
    without = np.ones(known.index.texts, dtype=bool)
    without[known.index.owners] = False
    return np.bincount(known.of_text[without], minlength=known.groups)
