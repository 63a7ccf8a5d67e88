"""The bundled training examples: cut by the rules from calibration text, with nothing of what is evaluated in them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.parquet as pq
import pytest

from calib.overlap import index_texts, overlap
from calib.sources.bundled import DOMAINS, REFERENCE
from calib.sources.heldout import Heldout
from sweep.reference.training import COUNTS, FOLDER, apart, last_words, task_texts

KINDS = tuple(COUNTS)


def _rows(kind: str) -> list[dict[str, Any]]:
    files = [FOLDER / f"reference_{kind}_train.{split}.jsonl" for split in ("validation", "train")]
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def _examples() -> list[str]:
    return [f"{row['query']} {row['answer']}" for kind in KINDS for row in _rows(kind)]


def test_no_example_shares_eight_words_in_a_row_with_a_task_or_heldout_text() -> None:
    index = index_texts(task_texts(), 8)
    assert (overlap(list(task_texts())[:50], index).windows > 0).all()  # what is there is found
    assert overlap(_examples(), index).windows.sum() == 0
    heldout = (document.text for domain in DOMAINS for document in Heldout(domain=domain).documents())
    assert overlap(_examples(), index_texts(heldout, 8)).windows.sum() == 0


def test_the_texts_of_tasks_are_all_that_is_asked_and_answered() -> None:
    texts = list(task_texts())
    assert any("Give me a minute to change" in text for text in texts)  # LAMBADA
    assert any(text.endswith("safety goggles") for text in texts)  # ARC-Easy, a wrong answer
    assert len(texts) > 15_000


@pytest.mark.parametrize("kind", KINDS)
def test_every_example_is_a_quotation_with_the_licence_of_its_document(kind: str) -> None:
    documents: dict[tuple[str, str], str] = {}
    for domain in DOMAINS:
        table = pq.read_table(REFERENCE / "calib" / f"{domain}.parquet", columns=["text", "origin", "licence"])
        for row in table.to_pylist():
            key = row["origin"], row["licence"]
            documents[key] = documents.get(key, "") + "\n\n" + row["text"]
    rows = _rows(kind)
    assert len({row["query"] for row in rows}) == len(rows) == COUNTS[kind]
    for row in rows:
        quoted = f"{row['query']} {row['answer']}".rpartition("\n\n")[2] if "facts" in kind else row["query"]
        assert quoted in documents[row["origin"], row["licence"]]


def test_files_together_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_000_000


def test_a_passage_ends_before_a_word_that_it_has_said() -> None:
    filler = "and so they went on and on along the river towards the hills in the rain " * 5
    text = f"The Ferry.\nThe old miller spoke, {filler}until night. Nobody had heard the miller. Then it began. "
    ((prompt, word),) = last_words(text)
    assert word == "miller"
    assert prompt.startswith("The old miller spoke,") and prompt.endswith("Nobody had heard the")


def test_too_few_examples_without_overlap_are_an_error() -> None:
    rows = [{"query": f"one two three four five six {name}", "answer": "eight"} for name in ("seven", "sieben")]
    index = index_texts(["One, two, three, four; five six seven eight."], 8)
    assert apart(rows, index, 1) == rows[1:]
    with pytest.raises(ValueError, match="only 1 of 2 examples"):
        apart(rows, index, 2)
