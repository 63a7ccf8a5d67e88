"""Mixtures hold exact shares of their sources; random tokens hold no text at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.build import build, build_sets, preflight
from calib.settings import SettingsError
from calib.source import Source, get_source
from calib.spec import CalibrationSpec


@pytest.fixture
def entries(jsonl: Callable[..., Path], text_of: Callable[..., str]) -> list[dict[str, Any]]:
    """Two files, a and b, with shares of three to one."""
    a = jsonl([{"text": text_of(number)} for number in range(40)], "a.jsonl")
    b = jsonl([{"text": text_of(number + 100)} for number in range(40)], "b.jsonl")
    return [{"source": "file", "path": str(a), "share": 0.75}, {"source": "file", "path": str(b), "share": 0.25}]


def mixture(parts: Any) -> Source:
    return get_source({"source": "mixture", "parts": parts}, "calibration.source")


def specs_of(source: Source, nsamples: int = 8) -> list[CalibrationSpec]:
    return [CalibrationSpec(source=source, set=number, nsamples=nsamples, seqlen=24) for number in range(3)]


def test_every_set_has_the_shares(entries: list[dict[str, Any]], tokenizer: Any) -> None:
    for built in build_sets(specs_of(mixture(entries)), tokenizer):
        parts = ["a" if documents[0].startswith("a/") else "b" for documents in built.documents_in]
        assert (parts.count("a"), parts.count("b")) == (6, 2)
        assert [parts[:4].count("a"), parts[4:].count("a")] == [3, 3]  # the parts take turns


def test_sets_of_a_mixture_are_nested_and_have_the_shares_at_every_size(
    entries: list[dict[str, Any]], tokenizer: Any
) -> None:
    sizes = (4, 8, 12)
    built = [
        build_sets(
            [
                CalibrationSpec(source=mixture(entries), set=k, nsamples=size, seqlen=24, max_nsamples=12)
                for k in range(3)
            ],
            tokenizer,
        )
        for size in sizes
    ]
    for number in range(3):
        whole = built[-1][number].tokens
        for size, sets in zip(sizes, built, strict=True):
            assert np.array_equal(sets[number].tokens, whole[:size])
            origins = [documents[0][0] for documents in sets[number].documents_in]
            assert origins.count("b") == size // 4
    assert len({window.tobytes() for one in built[-1] for window in one.tokens}) == 36


def test_sets_of_a_mixture_share_no_window(entries: list[dict[str, Any]], tokenizer: Any) -> None:
    built = build_sets(specs_of(mixture(entries)), tokenizer)
    windows = [window.tobytes() for one in built for window in one.tokens]
    assert len(set(windows)) == len(windows) == 24


def test_a_part_is_drawn_as_if_it_stood_alone(entries: list[dict[str, Any]], tokenizer: Any) -> None:
    mixed = build_sets(specs_of(mixture(entries)), tokenizer)[1]
    alone = build(
        CalibrationSpec(
            source=get_source({"source": "file", "path": entries[1]["path"]}), set=1, nsamples=2, seqlen=24
        ),
        tokenizer,
    )
    ours = {window.tobytes() for window in mixed.tokens}
    assert {window.tobytes() for window in alone.tokens} <= ours


def test_identity_knows_the_shares_and_the_content(entries: list[dict[str, Any]]) -> None:
    def key(parts: list[dict[str, Any]]) -> str:
        return CalibrationSpec(source=mixture(parts), set=0, nsamples=8, seqlen=24).id("tiny")

    before = key(entries)
    assert key([{**entries[0], "share": 0.5}, {**entries[1], "share": 0.5}]) != before
    assert key([{**entries[0], "label": "first"}, entries[1]]) == before
    path = Path(entries[0]["path"])
    path.write_text(path.read_text().replace("document 1:", "document one:"))
    assert key(entries) != before


def test_labels_tell_the_parts(entries: list[dict[str, Any]]) -> None:
    assert mixture(entries).label == "75% a + 25% b"
    assert mixture({"books": 0.5, "code": 0.5}).label == "books+code"
    assert mixture(mixture(entries).to_dict()["parts"]) == mixture(entries)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"books": 0.5, "coed": 0.5}, "calibration.source.parts.coed: unknown source 'coed', did you mean 'code'?"),
        ({"books": 0.5, "code": 0.4}, "calibration.source.parts: shares must add up to 1, got 0.9"),
        ({"books": 1.0}, "calibration.source.parts: a mixture has at least two sources"),
        ({"books": 1.5, "code": -0.5}, "calibration.source.parts: expected a share between 0 and 1 for 'books'"),
        ([{"source": "books", "share": 0.5}] * 2, "calibration.source.parts: two sources are called 'books'"),
        ([{"source": "books"}, {"source": "code"}], "calibration.source.parts[0].share: expected a number"),
    ],
)
def test_wrong_parts_are_refused(parts: Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        mixture(parts)
    assert str(caught.value).startswith(message)


def test_share_that_leaves_no_window_is_refused(entries: list[dict[str, Any]], tokenizer: Any) -> None:
    with pytest.raises(SettingsError, match="a share of 0.25 of 1 windows leaves none for 'b'"):
        build(specs_of(mixture(entries), nsamples=1)[0], tokenizer)
    with pytest.raises(SettingsError, match="leaves none for 'b'"):
        preflight(specs_of(mixture(entries), nsamples=1))


def test_missing_file_of_a_part_is_found_beforehand(entries: list[dict[str, Any]]) -> None:
    Path(entries[1]["path"]).unlink()
    with pytest.raises(SettingsError, match="no such file or folder"):
        preflight(specs_of(mixture(entries)))


def test_random_tokens_cover_the_vocabulary_without_special_tokens(tokenizer: Any) -> None:
    source = get_source({"source": "random_tokens", "documents": 64, "length": 256})
    spec = CalibrationSpec(source=source, set=0, nsamples=60, seqlen=256, separator="none")
    built = build(spec, tokenizer)
    assert set(np.unique(built.tokens)) == set(range(len(tokenizer))) - set(tokenizer.all_special_ids)
    counts = np.bincount(built.tokens.ravel(), minlength=len(tokenizer))[2:]
    expected = built.tokens.size / len(counts)
    assert abs(counts - expected).max() < 6 * np.sqrt(expected)


def test_random_tokens_depend_on_their_seed_and_have_no_text(tokenizer: Any) -> None:
    def hash_of(seed: int) -> str:
        source = get_source({"source": "random_tokens", "documents": 8, "length": 64, "seed": seed})
        return build(CalibrationSpec(source=source, set=0, nsamples=2, seqlen=64), tokenizer).hash

    assert hash_of(0) == hash_of(0) != hash_of(1)
    with pytest.raises(SettingsError, match="no text"):
        next(get_source("random_tokens").documents())


def test_one_text_under_two_names_is_refused() -> None:
    parts = [{"source": "books", "share": 0.5}, {"source": "books", "label": "again", "share": 0.5}]
    with pytest.raises(SettingsError, match="books and again are one text"):
        get_source({"source": "mixture", "parts": parts})


def test_held_out_texts_of_two_domains_are_two_texts() -> None:
    parts = [{"source": "heldout", "domain": name, "share": 0.5} for name in ("books", "code")]
    assert get_source({"source": "mixture", "parts": parts}).label == "books+code"
    renamed = [{**parts[0], "label": "one"}, {**parts[0], "label": "two"}]
    with pytest.raises(SettingsError, match="one and two are one text"):
        get_source({"source": "mixture", "parts": renamed})


def test_one_text_said_to_be_of_two_domains_is_refused() -> None:
    parts = [{"source": "books", "share": 0.5}, {"source": "books", "label": "b", "domain": "prose", "share": 0.5}]
    with pytest.raises(SettingsError, match="books and b are one text"):
        get_source({"source": "mixture", "parts": parts})
