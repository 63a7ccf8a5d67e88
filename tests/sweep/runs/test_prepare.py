"""What trials share, made once."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from sweep.models import ModelRef
from sweep.runs import prepare


def test_a_model_that_is_asked_has_a_commit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of one tokenizer share calibration sets; the requests are those of one of them."""
    loaded: list[Any] = []

    def load(ref: ModelRef, device: str) -> Any:
        loaded.append(ref.revision)
        return SimpleNamespace(model=None)

    monkeypatch.setattr(prepare, "hub_commit", lambda ref: f"commit of {ref.name}")
    monkeypatch.setattr(prepare, "at_commit", lambda ref, commit: SimpleNamespace(revision=commit))
    monkeypatch.setattr(prepare, "dense_of", load)
    monkeypatch.setattr(prepare, "asked_rows", lambda *_: ())
    monkeypatch.setattr(prepare, "described", lambda *_: defaultdict(set))
    monkeypatch.setattr(prepare, "write_descriptors", lambda *_: None)
    store: Any = None
    settings = SimpleNamespace(descriptors=("perplexity",))
    data: Any = SimpleNamespace(settings=settings, heldout=(), model_commit="commit of another")
    describer: Any = SimpleNamespace(name="this", fingerprint="f")
    pool: Any = SimpleNamespace(methods={})
    prepare._ask(store, pool, describer, [SimpleNamespace(id="1")], data, "cpu")  # type: ignore[list-item]
    assert loaded == ["commit of this"]
