"""A runner that stays from one study to another."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweep.plan import Pool, RequestSet
from sweep.runs import local
from sweep.runs.local import LocalRunner


def test_sets_are_made_beside_the_requests_of_their_own_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def requests(trial: str, results: str, seqlens: object) -> Any:
        return SimpleNamespace(of=trial, largest_ids=())

    def sets(pool: Pool, results: str, device: str, data: Any) -> list[Any]:
        given.append(data.of)
        return []

    monkeypatch.setattr(local, "make_requests", requests)
    monkeypatch.setattr(local, "make_calibration_sets", sets)
    pool: Any = SimpleNamespace(
        ids=(), specs=(), writes=False, measures=False, model=SimpleNamespace(tokenizer_id="one", name="tiny")
    )
    runner = LocalRunner(str(tmp_path), {}, "cpu")
    for study in ("full", "screening"):
        trial: Any = study
        runner.prepare([pool], {("one", 512, study): RequestSet(trial, (), ())})
    assert given == ["full", "screening"]
