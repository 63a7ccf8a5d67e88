"""Licences are those that files state, and nothing is made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from calib.source import get_source
from sweep.models import resolve_model
from sweep.shipping.licences import model_licence, text_licences
from tests.sweep.checkpoints.gguf_files import write_gguf


def test_bundled_models_and_texts_know_theirs(tiny_model: Path) -> None:
    assert model_licence(resolve_model("reference-2m", "m")) == "apache-2.0"
    assert "MIT" in text_licences(get_source("code"))
    assert model_licence(resolve_model(str(tiny_model), "m")) is None
    assert text_licences(get_source({"source": "file", "path": "my.jsonl"})) == []
    assert text_licences(None) == []


def test_published_sources_say_theirs_and_a_part_without_one_leaves_it_open() -> None:
    mine = {"source": "file", "path": "my.jsonl"}
    assert text_licences(get_source("c4")) == ["ODC-BY"]
    assert text_licences(get_source({"source": "noisy", "of": "alpaca", "kind": "typos"})) == ["CC-BY-NC-4.0"]
    assert (
        text_licences(
            get_source({"source": "mixture", "parts": [{**mine, "share": 0.5}, {"source": "c4", "share": 0.5}]})
        )
        == []
    )


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: llama3.1\ntags: [a]\n---\n# A model\n", "llama3.1"),
        ("---\ntags: [a]\n---\n", None),
        ("# license: mit\n", None),
        ("---\nlicense: mit\n", None),
        ("---\nlicense: [mit\n---\n", None),
        ("", None),
    ],
)
def test_a_card_says_it_at_its_head(tiny_model: Path, tmp_path: Path, card: str, expected: str | None) -> None:
    (tmp_path / "README.md").write_text(card)
    ref = replace(resolve_model(str(tiny_model), "m"), path=str(tmp_path))
    assert model_licence(ref) == expected


@pytest.mark.parametrize("licence", ["apache-2.0", None])
def test_a_gguf_file_says_its_own(tmp_path: Path, licence: str | None) -> None:
    file = write_gguf(tmp_path / "m.gguf", fields={"general.license": licence})
    assert model_licence(resolve_model(str(file), "m")) == licence
