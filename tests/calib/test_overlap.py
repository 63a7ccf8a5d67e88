"""Overlap is what a plain search for shared n-grams finds, and excluded documents are the ones that share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.build import read_pool
from calib.ngrams import batches, token_ngrams, word_ngrams
from calib.overlap import grouped, index_texts, index_tokens, overlap, overlap_by_group
from calib.settings import SettingsError
from calib.source import get_source

words = st.lists(st.sampled_from(["The", "river", "ran", "é", "down,", "down", "-", "x2", "数据"]), max_size=14)
texts = st.lists(words.map(" ".join), min_size=1, max_size=6)


def plain_ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """The plainest way: words by a pattern, then slices."""
    found = re.findall(r"[0-9a-z\x80-\U0010ffff]+", text.casefold())
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


@settings(deadline=None)
@given(texts, texts, st.integers(1, 4))
def test_overlap_is_what_a_plain_search_finds(windows: list[str], asked: list[str], n: int) -> None:
    found = overlap(windows, index_texts(asked, n))
    evaluated = {gram for text in asked for gram in plain_ngrams(text, n)}
    calibrated = {gram for text in windows for gram in plain_ngrams(text, n)}
    assert found.windows.tolist() == [sum(gram in evaluated for gram in plain_ngrams(text, n)) for text in windows]
    for share, text in zip(found.texts, asked, strict=True):
        grams = plain_ngrams(text, n)
        assert share == (sum(gram in calibrated for gram in grams) / len(grams) if grams else 0)
    assert found.short == sum(not plain_ngrams(text, n) for text in asked)
    assert found.contaminated == sum(bool(set(plain_ngrams(text, n)) & calibrated) for text in asked)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), max_size=8), min_size=1, max_size=5),
    st.lists(st.lists(st.integers(0, 3), max_size=8), min_size=1, max_size=5),
    st.integers(1, 3),
)
def test_overlap_of_tokens_is_what_a_plain_search_finds(
    windows: list[list[int]], asked: list[list[int]], n: int
) -> None:
    def grams(ids: list[int]) -> list[tuple[int, ...]]:
        return [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]

    found = overlap(map(np.array, windows), index_tokens(map(np.array, asked), n))
    evaluated = {gram for ids in asked for gram in grams(ids)}
    assert found.windows.tolist() == [sum(gram in evaluated for gram in grams(ids)) for ids in windows]


def test_a_hash_does_not_depend_on_what_stands_before() -> None:
    alone = word_ngrams(["the river ran down"], 3)[0].tolist()
    after = word_ngrams(["much else, " * 50, "The River -- ran\ndown!"], 3)
    assert after[0][after[1] == 1].tolist() == alone
    assert len({*word_ngrams(["a b", "ab", "b a", "a  c"], 2)[0].tolist()}) == 3


def test_ngrams_do_not_cross_windows() -> None:
    hashes, owners = token_ngrams([np.arange(4), np.arange(4)], 3)
    assert owners.tolist() == [0, 0, 1, 1] and hashes[:2].tolist() == hashes[2:].tolist()
    assert len(token_ngrams([], 3)[0]) == 0 == len(word_ngrams([], 3)[0])


def test_batches_hold_everything_in_order() -> None:
    items = ["a" * (number % 7) for number in range(50)]
    assert [item for batch in batches(items, len, 10) for item in batch] == items


@pytest.fixture
def leaky(jsonl: Callable[..., Path], text_of: Callable[..., str]) -> dict[str, Any]:
    """Ten documents, of which numbers 2 and 5 hold a question of the evaluation."""
    questions = ["How long is the river that the model named after the window?", "Short one"]
    texts = [text_of(number) for number in range(10)]
    for number in (2, 5):
        texts[number] = f"{texts[number]} how long is the RIVER, that the model named after the window? {number}"
    own = jsonl([{"text": text} for text in texts], "own.jsonl")
    asked = jsonl([{"text": text} for text in questions], "asked.jsonl")
    of, against = ({"source": "file", "path": str(path)} for path in (own, asked))
    return {"source": "exclude_overlap", "of": of, "against": [against]}


def test_documents_that_share_are_left_out_and_counted(leaky: dict[str, Any]) -> None:
    source = get_source(leaky)
    ids = [document.id for document in source.documents()]
    assert ids == [f"own.jsonl:{number}" for number in range(10) if number not in (2, 5)]
    assert source.excluded() == (2, 10)  # type: ignore[attr-defined]
    assert len(list(get_source({**leaky, "n": 20}).documents())) == 10
    assert source.label == "own, no overlap"


def test_changed_evaluation_is_another_source(leaky: dict[str, Any]) -> None:
    before = get_source(leaky).revision()
    path = Path(leaky["against"][0]["path"])
    path.write_text(path.read_text() + '{"text": "another question"}\n')
    assert get_source(leaky).revision() != before


def test_mixture_inside_keeps_its_shares(leaky: dict[str, Any]) -> None:
    mixture = {"source": "mixture", "parts": {"books": 0.5, "code": 0.5}}
    components = get_source({**leaky, "of": mixture}).components()
    assert [source.label for source, _ in components] == ["books, no overlap", "code, no overlap"]


def test_source_without_anything_left_is_refused(leaky: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="every document shares 8 words with evaluation text"):
        list(get_source({**leaky, "against": [leaky["of"]]}).documents())
    with pytest.raises(SettingsError, match="against: expected at least one source"):
        get_source({**leaky, "against": []})


@settings(deadline=None)
@given(texts, st.lists(texts, min_size=1, max_size=3), st.integers(1, 3))
def test_overlap_by_group_is_that_with_each_group_alone(windows: list[str], asked: list[list[str]], n: int) -> None:
    of_text = [number for number, group in enumerate(asked) for _ in group]
    together = grouped(index_texts([text for group in asked for text in group], n), of_text, len(asked))
    found = overlap_by_group(windows, together)
    alone = [overlap(windows, index_texts(group, n)) for group in asked]
    assert found.windows.tolist() == [int((one.windows > 0).sum()) for one in alone]
    assert found.texts.tolist() == [one.contaminated for one in alone]
    assert found.share.tolist() == [one.texts.max() for one in alone]


def test_texts_of_an_evaluation_are_left_out_and_counted(leaky: dict[str, Any], tokenizer: Any) -> None:
    asked = [document.text for source in leaky["against"] for document in get_source(source).documents()]
    named = get_source({"source": "exclude_overlap", "of": leaky["of"], "n": leaky.get("n", 8), "evaluation": "id"})
    pools = [read_pool(source, tokenizer, asked=asked) for source in (get_source(leaky), named)]
    assert pools[0].ids == pools[1].ids
    assert pools[0].excluded == pools[1].excluded == get_source(leaky).excluded()[0] > 0
    assert named.identity()["evaluation"] == "id"
    assert "evaluation" not in get_source(leaky).identity()
    with pytest.raises(SettingsError, match="no evaluation is at hand here"):
        read_pool(named, tokenizer)


def test_text_of_token_ids_is_judged_decoded(tokenizer: Any) -> None:
    drawn = get_source({"source": "random_tokens", "documents": 6, "length": 40})
    whole = list(drawn.token_documents(tokenizer))
    leaked = tokenizer.batch_decode([whole[2].tokens], skip_special_tokens=True)
    source = get_source({"source": "exclude_overlap", "of": drawn, "n": 2, "evaluation": "id"})
    pool = read_pool(source, tokenizer, asked=leaked)
    assert pool.excluded >= 1
    assert whole[2].id not in pool.ids
