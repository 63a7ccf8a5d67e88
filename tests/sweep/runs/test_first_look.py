"""What is wrong with sources and tokenizers is found before a worker is asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import calib.hub
from calib.settings import SettingsError
from sweep import plan
from sweep.config import parse_study
from sweep.plan import Pool, Trial
from sweep.remote import RayRunner
from sweep.runs.first_look import look_at_pool, look_at_texts, worth_a_look
from sweep.runs.runner import RunOptions

C4 = {"source": "c4"}


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of the hub that were asked for, all in vain."""
    asked: list[str] = []

    def load(kind: str, file: str, **settings: Any) -> Any:
        asked.append(file)
        raise OSError("401 Client Error: the data set is gated")

    monkeypatch.setattr(calib.hub, "_load", load)
    return asked


def planned(document: dict[str, Any], **calibration: Any) -> list[Trial]:
    return plan.expand(parse_study({**document, "calibration": {**document["calibration"], **calibration}}))


def pools(document: dict[str, Any], **calibration: Any) -> list[Pool]:
    return plan.pools(planned(document, **calibration))


@pytest.mark.parametrize(
    "source", [C4, {"source": "shuffled_words", "of": C4}, {"source": "mixture", "parts": {"books": 0.5, "c4": 0.5}}]
)
def test_source_out_of_reach_is_told_by_its_first_document(
    source: Any, document: dict[str, Any], no_hub: list[str], tmp_path: Path
) -> None:
    (pool,) = pools(document, source=[source])
    with pytest.raises(SettingsError, match="gated or private"):
        look_at_pool(pool, str(tmp_path))
    assert len(no_hub) == 1


@pytest.mark.parametrize("source", [C4, {"source": "shuffled_words", "of": C4}])
def test_source_is_looked_at_before_texts_of_the_evaluation_that_are_left_out_are_there(
    source: Any, document: dict[str, Any], no_hub: list[str], tmp_path: Path
) -> None:
    (pool,) = pools(document, source=[source], exclude_overlap=True)
    with pytest.raises(SettingsError, match="gated or private"):
        look_at_pool(pool, str(tmp_path))
    assert len(no_hub) == 1


def test_held_out_text_out_of_reach_is_told(document: dict[str, Any], no_hub: list[str]) -> None:
    look_at_texts(planned(document)[0])
    document["evaluation"]["heldout"] = [C4]
    with pytest.raises(SettingsError, match="gated or private"):
        look_at_texts(planned(document)[0])


def test_special_token_that_the_tokenizer_lacks_is_told(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pool, _) = pools(document, add_bos=True)
    look_at_pool(pool, str(tmp_path))
    bare = SimpleNamespace(bos_token_id=None, eos_token_id=0, name_or_path="bare")
    monkeypatch.setattr("sweep.runs.first_look.load_tokenizer", lambda ref: bare)
    with pytest.raises(SettingsError, match="add_bos.*no BOS token"):
        look_at_pool(pool, str(tmp_path))


def test_sets_that_a_model_has_chosen_already_need_no_source(
    document: dict[str, Any], no_hub: list[str], tmp_path: Path
) -> None:
    (pool,) = pools(document, source=[C4], select={"by": "least_perplexity"})
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / f"{pool.ids[0]}.parquet").touch()
    look_at_pool(pool, str(tmp_path))
    assert no_hub == []


def test_local_sources_of_a_tokenizer_are_looked_at_once(document: dict[str, Any]) -> None:
    rivers, stones = document["calibration"]["source"]
    found = pools(document, source=[rivers, stones, C4, {"source": "wikipedia"}])
    assert [pool.specs[0].source.label for pool in worth_a_look(found)] == ["rivers", "c4", "wikipedia"]


def test_no_worker_of_a_cluster_is_asked_for_before_everything_was_looked_at(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = planned(document)
    runner = RayRunner("results", {}, RunOptions(address="auto"))
    done: list[str] = []
    tasks: dict[str, Any] = {"check_model": 257, "requests_and_receipt": (), "sets_and_receipt": {}}

    tasks["look_at_pool"] = SettingsError("gated")

    def task(function: Any, *arguments: Any, returns: int, on_device: bool = False, near: bool = False) -> list[Any]:
        return [(function.__name__, value) for value in range(returns)]

    def result(reference: tuple[str, int]) -> Any:
        done.append(reference[0])
        if isinstance(wrong := tasks.get(reference[0]), Exception):
            raise wrong
        return wrong

    room = SimpleNamespace(spare=lambda workers: True, kind_by_model=lambda models: dict.fromkeys(models, 1.0))
    monkeypatch.setattr(runner, "nodes", SimpleNamespace(room=lambda: room))
    monkeypatch.setattr(runner, "task", task)
    monkeypatch.setattr(runner, "done", lambda references, seconds=0.0: list(references[:1]))
    monkeypatch.setattr(runner, "result", result)
    monkeypatch.setattr(runner, "hire", lambda *_: done.append("hired") or [])
    with pytest.raises(SettingsError, match="gated"):
        runner.prepare(plan.pools(trials), plan.request_sets(trials))
    assert "hired" not in done
    tasks["look_at_pool"] = None
    done.clear()
    runner.workers = 1
    runner.prepare(plan.pools(trials), plan.request_sets(trials))
    before = done[: done.index("hired")]
    assert {"check_model", "look_at_pool", "look_at_texts", "requests_and_receipt"} <= set(before)
