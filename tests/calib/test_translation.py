"""Both sides of a parallel file give the same documents, and nothing but the language differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calib.build import build_sets
from calib.settings import SettingsError
from calib.source import get_source
from calib.spec import CalibrationSpec

PARALLEL = [
    {"en": "the river window", "de": "das Fenster am Fluss"},
    {"en": "a sparse model", "de": ""},
    {"en": None, "de": "ohne Vorlage"},
    {"en": "a weight of the stream", "de": "ein Gewicht des Bachs"},
]


@pytest.fixture
def entry(jsonl: Callable[..., Path]) -> dict[str, Any]:
    path = jsonl(PARALLEL, "parallel.jsonl")
    return {"source": "translation", "path": str(path), "column": "en", "translation": "de"}


def test_only_documents_that_have_both_texts_are_read(entry: dict[str, Any]) -> None:
    german, english = get_source(entry), get_source({**entry, "side": "original"})
    assert [document.text for document in german.documents()] == ["das Fenster am Fluss", "ein Gewicht des Bachs"]
    assert [document.text for document in english.documents()] == ["the river window", "a weight of the stream"]
    assert [document.id for document in german.documents()] == [document.id for document in english.documents()]
    assert (german.label, english.label) == ("parallel-de", "parallel-en")
    assert german.identity() != english.identity() and german.revision() == english.revision()


def test_sets_of_both_sides_hold_the_same_documents(
    jsonl: Callable[..., Path], text_of: Callable[..., str], tokenizer: Any
) -> None:
    records = [{"en": text_of(number), "de": text_of(number).upper()} for number in range(60)]
    path = jsonl(records, "parallel.jsonl")
    entry = {"source": "translation", "path": str(path), "column": "en", "translation": "de"}
    one, other = (
        [
            CalibrationSpec(source=get_source({**entry, "side": side}), set=k, nsamples=3, seqlen=8, sampling=sampling)
            for k in range(3)
        ]
        for side, sampling in (("original", "document_start"), ("translation", "document_start"))
    )
    for english, german in zip(build_sets(one, tokenizer), build_sets(other, tokenizer), strict=True):
        assert [window[0] for window in english.documents_in] == [window[0] for window in german.documents_in]
        assert english.hash != german.hash


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"translation": "en"}, "source.translation: expected another column than that of the original"),
        ({"translation": "fr"}, "source 'parallel-fr': .*line 1: no column 'fr'"),
        ({"unit": "paragraph"}, "source.unit: a parallel file has records"),
        ({"side": "german"}, "source.side: expected 'original' or 'translation'"),
    ],
)
def test_wrong_settings_are_refused(entry: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        get_source({**entry, **changes}).check()
