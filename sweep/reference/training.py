"""Make training examples in the form of bundled tasks from the bundled calibration text alone.

    python -m sweep.reference.training

Whether a task's own text is the better calibration text needs training examples, and the bundled tasks have none: they
are test questions, cut from held-out text or taken from published test splits. Three of their kinds can be cut from
calibration text by the same rules: *continuation* (all nine domains), the *last word* of a passage of the books that
the passage has said before (LAMBADA; Paperno et al. 2016, arXiv 1606.06031), and *facts* of the encyclopedia. Only
the prompt and the right answer are kept, since the text of an example shows nothing else.

The hard case is leakage: calibration text and tasks share no document, yet phrases recur. An example that shares
`WORDS` words in a row with any text of any bundled task, or with held-out text, is left out. Every row keeps the origin
and the licence of the document that it is cut from.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from calib.ngrams import WORDS
from calib.overlap import Index, index_texts, overlap
from calib.sampling import raw_numbers
from calib.sources.bundled import DOMAINS, REFERENCE
from sweep.reference.kit import ACC, continuation_items
from sweep.reference.questions import NAME, PER_ANSWER, PER_DOCUMENT, TASKS, YEAR, facts

FOLDER = REFERENCE / "tasks"
COUNTS = {"continuation": 450, "lambada": 320, "facts_names": 400, "facts_years": 160}  # examples, those held back too
HELD_BACK = 10  # examples for a validation split: lm-eval loads no task that has nothing to be evaluated on
DRAWN = 4  # passages of a domain for each that is kept, so that enough of them share nothing with a task
LEAST, MOST = 300, 700  # characters of a passage up to its last word; LAMBADA's have 200 to 1,000

SENTENCE_END = re.compile(r" ([A-Za-z]{4,})[.!?][”’\"']*(?=\s)")
BLANK_ANSWER = {"target_delimiter": "", "doc_to_target": "{{' ' + answer}}"}  # as reference_lambada has it


@dataclass(frozen=True)
class Text:
    """One document of the calibration text and what a row cut from it must say of it."""

    text: str
    origin: str
    licence: str


def last_words(text: str) -> Iterator[tuple[str, str]]:
    """Passages of whole sentences that break off before a last word said in them before; (prompt, word), none overlap.

    The first passage starts after the first sentence, which may be a heading.
    """
    start = None
    for match in SENTENCE_END.finditer(text):
        prompt = text[start : match.start()].strip() if start is not None else ""
        if LEAST <= len(prompt) <= MOST and re.search(rf"\b{match[1]}\b", prompt):
            yield prompt, match[1]
        elif start is not None and len(prompt) <= MOST:
            continue  # the passage goes on to the next sentence
        start = match.end()


def continuation_examples(domain: str, texts: Sequence[Text], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` passages of a domain and how they go on, cut as the questions of continuation choice are."""
    random = np.random.default_rng([seed, DOMAINS.index(domain)])
    cut = continuation_items([one.text for one in texts], domain, count, random)
    return [_row(texts, int(item["id"].split("-")[1]), item["query"], item["choices"][item["gold"]]) for item in cut]


def last_word_examples(texts: Sequence[Text], seed: int = 0) -> list[dict[str, Any]]:
    """All passages of the texts whose last word they have said before, in a random order."""
    every = [
        _row(texts, number, prompt, word) for number, one in enumerate(texts) for prompt, word in last_words(one.text)
    ]
    return _shuffled(every, seed)


def fact_examples(texts: Sequence[Text], pattern: re.Pattern[str], seed: int = 0) -> list[dict[str, Any]]:
    """The facts of the texts in a random order, as many of a document and of an answer as the questions have."""
    every = [fact for number, one in enumerate(texts) for fact in facts(number, one.text, pattern)]
    used: Counter[object] = Counter()
    rows = []
    for fact in _shuffled(every, seed):
        if used[fact.document] < PER_DOCUMENT and used[fact.answer] < PER_ANSWER:
            used.update((fact.document, fact.answer))
            rows.append(_row(texts, fact.document, fact.prompt, fact.answer))
    return rows


def task_texts() -> Iterator[str]:
    """Every text of every bundled task: what is asked, and all that can be answered."""
    for path in sorted(TASKS.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            prompt = " ".join(item.get(key, "") for key in ("context", "query", "target", "text")).strip()
            yield prompt
            choices = [item[key] for key in ("sentence_good", "sentence_bad") if key in item]
            yield from (f"{prompt} {choice}" for choice in [*item.get("choices", ()), *choices])


def apart(rows: Sequence[dict[str, Any]], index: Index, count: int) -> list[dict[str, Any]]:
    """The first `count` rows that share nothing with the index and are not there twice. ValueError for too few."""
    shared = overlap([f"{row['query']} {row['answer']}" for row in rows], index).windows
    kept = {row["query"]: row for row, hits in zip(rows, shared, strict=True) if not hits}
    if len(kept) < count:
        raise ValueError(f"only {len(kept)} of {count} examples share nothing with a task; give more text")
    return list(kept.values())[:count]


def write_examples(folder: Path, name: str, rows: Sequence[dict[str, Any]], **changes: Any) -> None:
    """Two JSON-lines files, training and validation, and the lm-eval YAML that reads them; it names no code."""
    splits = {"train": rows[HELD_BACK:], "validation": rows[:HELD_BACK]}
    for split, those in splits.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in those)
        (folder / f"{name}.{split}.jsonl").write_text(lines, encoding="utf-8")
    settings = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: f"{name}.{split}.jsonl" for split in splits}},
        "training_split": "train",
        "validation_split": "validation",
        "output_type": "loglikelihood",
        "doc_to_text": "{{query}}",
        "doc_to_target": "{{answer}}",
        **changes,
        "metric_list": [ACC],
        "metadata": {"version": 1.0},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


def write_all(folder: Path) -> None:
    """The training examples of all kinds."""
    heldout = (one.text for domain in DOMAINS for one in _texts(domain, "heldout"))
    index = index_texts(chain(task_texts(), heldout), WORDS)
    texts = {domain: _texts(domain) for domain in DOMAINS}
    each = COUNTS["continuation"] // len(DOMAINS)
    going_on: list[dict[str, Any]] = []
    for domain in DOMAINS:
        going_on += apart(continuation_examples(domain, texts[domain], DRAWN * each), index, each)
    made: dict[str, Iterable[dict[str, Any]]] = {
        "continuation": _shuffled(going_on, 0),
        "lambada": last_word_examples(texts["books"]),
        "facts_names": fact_examples(texts["encyclopedia"], NAME),
        "facts_years": fact_examples(texts["encyclopedia"], YEAR),
    }
    for kind, rows in made.items():
        changes = BLANK_ANSWER if kind == "lambada" else {}
        write_examples(folder, f"reference_{kind}_train", apart(list(rows), index, COUNTS[kind]), **changes)


def _texts(domain: str, folder: str = "calib") -> list[Text]:
    table = pq.read_table(REFERENCE / folder / f"{domain}.parquet", columns=["text", "origin", "licence"])
    return [Text(**row) for row in table.to_pylist()]


def _row(texts: Sequence[Text], number: int, query: str, answer: str) -> dict[str, Any]:
    return {"query": query, "answer": answer, "origin": texts[number].origin, "licence": texts[number].licence}


def _shuffled(items: Sequence[Any], seed: int) -> list[Any]:
    order = np.argsort(raw_numbers(seed, len(items))(len(items)), kind="stable")
    return [items[int(place)] for place in order]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write_all(FOLDER)
