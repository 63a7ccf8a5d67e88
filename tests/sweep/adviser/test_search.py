"""The mixture that is searched on screens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweep import plan
from sweep.adviser.candidates import make_arms
from sweep.adviser.search import SEARCHED, searched, to_mix, to_screen
from sweep.config import load_study
from sweep.plan import Trial
from sweep.results import Results
from tests.sweep.adviser.paper import Loss, PaperRunner, asked, conduct, prepared
from tests.sweep.conftest import write_documents

ALONE = {"a": 10.0, "b": 11.0, "c": 30.0, "d": 40.0}


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    (tmp_path / "texts").mkdir()
    return [write_documents(tmp_path / "texts" / f"{name}.jsonl", seed=n) for n, name in enumerate("abcd")]


def surface(gain: float, sd: float) -> Loss:
    """Losses of mixtures: the parts' by their shares, less `gain` times the product of the shares of a and b."""

    def loss(trial: Trial, label: str) -> float | None:
        if trial.spec is None:
            return 0.0 if trial.method is None else 60.0
        shares = {part.label: share for part, share in trial.spec.source.components()}
        level = sum(ALONE[name] * share for name, share in shares.items())
        luck = np.random.default_rng([trial.spec.set, *trial.spec.source.label.encode()]).standard_normal()
        return float(level - gain * shares.get("a", 0) * shares.get("b", 0) + sd * luck)

    return loss


def ask(tiny_model: Path, texts: list[Path], folder: Path) -> Any:
    return prepared(asked(tiny_model, texts, share=1.0, search_mixture=True, sets=4), folder)


def test_a_mixture_that_beats_its_parts_is_found_and_wins(tiny_model: Path, texts: list[Path], tmp_path: Path) -> None:
    ready = ask(tiny_model, texts, tmp_path / "out")
    runner = PaperRunner(ready.results, surface(gain=30.0, sd=0.1))
    advice = conduct(ready, runner)
    assert advice.verdict.arm == SEARCHED
    record = json.loads((tmp_path / "out" / "adviser.json").read_text())
    shares = next(arm["shares"] for arm in record["arms"] if arm["name"] == SEARCHED)
    assert shares["a"] == pytest.approx(0.5, abs=0.25) and shares["b"] == pytest.approx(0.5, abs=0.25)
    assert "propose: " in record["rounds"][0]["reason"]
    assert len(set(runner.ran)) == len(runner.ran)
    planned = {trial.id for trial in plan.expand(load_study(str(tmp_path / "out" / "study.yaml")))}
    assert set(Results(str(tmp_path / "out")).read("trials")["trial_id"]) < planned
    again = PaperRunner(ready.results, surface(gain=30.0, sd=0.1))
    assert conduct(ready, again).lines == advice.lines
    assert again.ran == []


def test_no_mixture_takes_part_where_none_beats_its_parts(tiny_model: Path, texts: list[Path], tmp_path: Path) -> None:
    ready = ask(tiny_model, texts, tmp_path / "out")
    advice = conduct(ready, PaperRunner(ready.results, surface(gain=-30.0, sd=0.01)))
    assert SEARCHED not in {standing.arm for standing in advice.verdict.standings}
    assert "none beats its parts" in advice.steps[0].reason


def test_a_pair_that_is_an_arm_already_is_screened_as_that(tiny_model: Path, texts: list[Path], tmp_path: Path) -> None:
    ready = prepared(asked(tiny_model, texts[:2], share=1.0, search_mixture=True, sets=4), tmp_path / "out")
    runner = PaperRunner(ready.results, surface(gain=30.0, sd=0.1))
    advice = conduct(ready, runner)
    assert len(set(runner.ran)) == len(runner.ran)
    assert "uniform mixture" in {outcome.arm for outcome in advice.steps[0].outcomes}


def test_only_pairs_that_can_be_paid_are_screened() -> None:
    losses = {"a": (3.0, 0.0), "b": (1.0, 5.0), "c": (2.0, 1.0), "d": (9.0, 9.0)}
    assert to_mix(losses, 3.9) == []
    assert set(to_mix(losses, 4.0)) == {"c", "a"}
    assert set(to_mix(losses, 7.0)) == {"c", "a", "b"}
    assert set(to_mix(losses, 100.0)) == set(losses)


def test_shares_are_whole_windows_of_a_screened_set(texts: list[Path]) -> None:
    candidates = make_arms(asked("reference-2m", texts, uniform=False))
    names = [arm.name for arm in candidates]
    tried = to_screen(names, candidates, 10)
    assert len(tried) == 6 + 1 + 4
    points: list[Any] = [({name: 1.0}, (ALONE[name],)) for name in names]
    for arm in tried:
        shares = arm.shares or {}
        points.append(
            (shares, (sum(ALONE[n] * p for n, p in shares.items()) - 24 * shares.get("a", 0) * shares.get("b", 0),))
        )
    found = searched(points, names, candidates, 10)
    assert found is not None and found.shares is not None
    for shares in (found.shares, *(arm.shares or {} for arm in tried)):
        assert all(share * 10 == pytest.approx(round(share * 10)) for share in shares.values())
        assert sum(shares.values()) == pytest.approx(1)
    assert found.shares == pytest.approx({"a": 0.5, "b": 0.5})
