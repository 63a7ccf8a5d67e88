"""The bundled questions on forgetting: what was cut is what the rules say, and the bundled files are what they give."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq
import pytest

from calib.sampling import raw_numbers
from sweep.reference.questions import (
    BYTES,
    CANDIDATES,
    FACTS,
    HELDOUT,
    NAME,
    PER_ANSWER,
    POOL,
    TASKS,
    WRONG,
    YEAR,
    fact_items,
    facts,
    hex_texts,
    rivals,
)
from sweep.reference.tasks.ranks import rank


def _items(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (TASKS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_fact_breaks_off_before_the_whole_of_a_name_or_a_year() -> None:
    text = (
        "The Old War\nIt was in the spring of that long and cold year that the men crossed the Black River Valley with "
        "oxen. In the years that followed the war nobody ever returned before the winter of 1643, when all was over."
    )
    (name,) = facts(0, text, NAME)
    assert name.answer == "Black River Valley"
    assert name.prompt.startswith("The Old War\n\nIt was")
    assert name.prompt.endswith("crossed the")
    (year,) = facts(0, text, YEAR)
    assert year.answer == "1643"
    told = (
        "The Black River\nIt was in the spring of that long and cold year that the men crossed the Black River again."
    )
    assert facts(0, told, NAME) == []  # the heading gives it away


def test_the_adversary_keeps_the_likeliest_passages_that_overlap_nothing() -> None:
    words = [f"{number:04d}abcde" for number in range(400)]
    text = " ".join(words)
    query, answer = text[1000:1299], text[1300:1400]
    seen: list[str] = []

    def score(prompt: str, passages: Sequence[str]) -> np.ndarray:
        assert prompt == query
        seen.extend(passages)
        return np.array([-float(passage[:4]) for passage in passages])  # early passages are the likeliest

    found = rivals(query, answer, text, score, raw_numbers(0))
    assert len(seen) == POOL
    assert found == sorted(seen)[:WRONG]
    spans = sorted((text.index(passage), text.index(passage) + 100) for passage in [*seen, answer])
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    with pytest.raises(ValueError, match="expected 3"):
        rivals(text[0:299], text[300:400], text[:450], score, raw_numbers(0))


@pytest.mark.parametrize("kind", sorted(FACTS))
def test_bundled_facts_are_those_of_the_bundled_text(kind: str) -> None:
    texts = pq.read_table(HELDOUT / "encyclopedia.parquet")["text"].to_pylist()
    items = _items(f"reference_facts_{kind}")
    assert items == fact_items(kind, texts, FACTS[kind])
    answers = [item["choices"][item["gold"]] for item in items]  # type: ignore[index]
    assert max(answers.count(answer) for answer in answers) <= PER_ANSWER
    for item in items:
        assert len(set(item["choices"])) == CANDIDATES  # type: ignore[call-overload]
        assert not any(choice in item["query"] for choice in item["choices"])  # type: ignore[operator,attr-defined]


def test_bundled_adversarial_questions_differ_from_the_plain_ones_in_the_wrong_passages_alone() -> None:
    items = _items("reference_adversarial")
    domains = {str(item["id"]).rsplit("-", 2)[0] for item in items}
    plain = {item["id"]: item for domain in domains for item in _items(f"reference_continuation_{domain}")}
    assert len(domains) == 9
    for item in items:
        before = plain[item["id"]]
        assert (item["query"], item["gold"]) == (before["query"], before["gold"])
        same = [a == b for a, b in zip(item["choices"], before["choices"], strict=True)]  # type: ignore[call-overload]
        assert same[item["gold"]]  # type: ignore[index]


@pytest.mark.parametrize("kind", sorted(BYTES))
def test_bundled_bytes_are_hex_digits_of_what_they_say(kind: str) -> None:
    texts = [str(item["text"]) for item in _items(f"reference_bytes_{kind}")]
    assert texts == list(hex_texts(kind, BYTES[kind]))
    numbers = np.array([[int(pair, 16) for pair in text.split()] for text in texts])
    steps = np.abs(np.diff(numbers, axis=1))
    if kind == "walk":
        assert np.minimum(steps, 256 - steps).max() == 3
    if kind == "noise":
        assert 60 < numbers.std() < 90


def test_rank_counts_the_answers_before_the_right_one() -> None:
    doc = {"gold": 2}
    assert rank(doc, [(-3.0, False), (-1.0, True), (-2.0, False)]) == {"acc": 0.0, "reciprocal_rank": 0.5}
    assert rank(doc, [(-3.0, False), (-4.0, False), (-2.0, True)]) == {"acc": 1.0, "reciprocal_rank": 1.0}
    assert rank(doc, [(-2.0, False), (-4.0, False), (-2.0, True)])["acc"] == 0.0
