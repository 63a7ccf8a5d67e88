"""Same spec, same tokens: on every machine, Python and NumPy, and in every order of asking. The hashes say so.

The tokenizer is that of the bytes, so that nothing but this project and NumPy is at work. When a hash must change, the
version of what changed is raised: `SAMPLING_VERSION`, or the `version` of a source or of a rule of selection.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.build import build_sets
from calib.source import get_source
from calib.spec import CalibrationSpec


class Bytes:
    """A tokenizer whose ids are the bytes of the text, and three more."""

    bos_token_id, eos_token_id = 256, 257
    all_special_ids = (256, 257)

    def __call__(self, texts: str | list[str], **_: Any) -> dict[str, Any]:
        if isinstance(texts, str):
            return {"input_ids": list(texts.encode())}
        return {"input_ids": [list(text.encode()) for text in texts]}

    def __len__(self) -> int:
        return 258

    def batch_decode(self, rows: Any, **_: Any) -> list[str]:
        return [bytes(int(i) for i in row if i < 256).decode("utf-8", "replace") for row in np.asarray(rows)]


MY = {"source": "file", "path": "my.jsonl"}
OTHER = {"source": "file", "path": "other.jsonl"}
ASKED = {"source": "file", "path": "my.jsonl", "documents": 9}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "windows": (MY, {}, "7799f4454f9f"),
    "nested": (MY, {"max_nsamples": 8}, "52a3918edbb9"),
    "packed": (MY, {"sampling": "packed", "max_nsamples": 8}, "38e67cd8be58"),
    "document_start": (MY, {"sampling": "document_start", "max_nsamples": 8}, "6d66e8c39518"),
    "long_documents": (MY, {"sampling": "long_documents"}, "16615e3d2658"),
    "bos": (MY, {"add_bos": True, "separator": "bos"}, "ad8f88e8d123"),
    "document_bos": (MY, {"document_bos": True, "separator": "none"}, "134a5c469322"),
    "distinct": (MY, {"distinct": 2}, "01199deb8fdb"),
    "mixture": (
        {"source": "mixture", "parts": [{**MY, "share": 0.3}, {**OTHER, "share": 0.7}]},
        {"max_nsamples": 10},
        "2d59a8f8a27c",
    ),
    "random": (MY, {"select": {"by": "random", "pool": 3}}, "ba4b6aa0f9fe"),
    "lexical": (MY, {"select": {"by": "lexical", "pool": 3}}, "79530ef87adb"),
    "herding": (MY, {"select": {"by": "herding", "pool": 3, "target": OTHER}}, "9dabd5676a3e"),
    "typos": ({"source": "noisy", "of": MY, "kind": "typos"}, {}, "a3f7df2ad899"),
    "ocr": ({"source": "noisy", "of": MY, "kind": "ocr"}, {}, "dde91b861abe"),
    "casing": ({"source": "noisy", "of": MY, "kind": "casing"}, {}, "a105b539d537"),
    "whitespace": ({"source": "noisy", "of": MY, "kind": "whitespace"}, {}, "b2dbc31eb828"),
    "lost_words": ({"source": "noisy", "of": MY, "kind": "lost_words"}, {}, "917f7bcae15b"),
    "shuffled_words": ({"source": "shuffled_words", "of": MY}, {}, "8fb42055ef90"),
    "exclude_overlap": ({"source": "exclude_overlap", "of": MY, "against": [ASKED], "n": 14}, {}, "41932a8e8b42"),
    "random_tokens": ({"source": "random_tokens", "documents": 40, "length": 100}, {}, "301d66ad7432"),
}


@pytest.fixture
def files(jsonl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two files of 60 documents each, made of a fixed list of words."""
    monkeypatch.chdir(tmp_path)
    words = ["river", "Stream", "window,", "über", "model", "of", "the", "weight", "sparse", "100"]
    for name, step in (("my.jsonl", 7), ("other.jsonl", 13)):
        documents = [
            " ".join(words[(step * number + place * place) % 10] for place in range(5 + number % 40))
            for number in range(60)
        ]
        jsonl([{"text": f"{number} {text}"} for number, text in enumerate(documents)], name)


def specs_of(name: str) -> list[CalibrationSpec]:
    entry, values, _ = CASES[name]
    given = {"nsamples": 4, "seqlen": 40, **values}
    return [CalibrationSpec(source=get_source(entry), set=number, seed=3, **given) for number in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_same_spec_gives_same_tokens_everywhere(files: None, name: str) -> None:
    built = build_sets(specs_of(name), Bytes(), "bytes")[1]
    assert built.hash[:12] == CASES[name][2]


def test_order_of_asking_changes_nothing(files: None) -> None:
    specs = [spec for name in CASES for spec in specs_of(name)]
    expected = {built.id: built.hash for built in build_sets(specs, Bytes(), "bytes")}
    random.Random(0).shuffle(specs)
    assert {built.id: built.hash for built in build_sets(specs, Bytes(), "bytes")} == expected
    assert len(set(expected)) == len(expected)
