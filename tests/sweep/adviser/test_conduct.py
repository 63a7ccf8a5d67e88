"""A question from its controls to its answer, with a runner of paper."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sweep import plan
from sweep.adviser.advice import Prepared
from sweep.adviser.conduct import Conduct
from sweep.adviser.outcomes import FULL, SCREEN, Trial
from sweep.config import load_study
from sweep.results import Results
from sweep.runs.estimate import expected
from sweep.runs.runner import RunnerError
from tests.sweep.adviser.paper import PaperRunner, asked, conduct, losses, prepared, seconds
from tests.sweep.conftest import write_documents, write_tiny_model

LEVELS = {"a": 10.0, "b": 14.0, "c": 14.5, "d": 15.0, "uniform mixture": 13.0}


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    (tmp_path / "texts").mkdir()
    return [write_documents(tmp_path / "texts" / f"{name}.jsonl", seed=n) for n, name in enumerate("abcd")]


@pytest.fixture
def question(tiny_model: Path, texts: list[Path], tmp_path: Path) -> Prepared:
    return prepared(asked(tiny_model, texts, share=0.5), tmp_path / "out")


def record(root: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(root) / "adviser.json").read_text())
    return found


def decisions(root: str) -> list[Any]:
    return [
        (one["reason"], [(t["arm"], t["draw"], t["fidelity"], t["values"]) for t in one["trials"]])
        for one in record(root)["rounds"]
    ]


def test_the_best_text_is_found_within_the_share(question: Prepared) -> None:
    runner = PaperRunner(question.results, losses(LEVELS))
    advice = conduct(question, runner)
    assert advice.verdict.arm == "a"
    assert advice.verdict.kind == "winner"
    assert advice.steps[-1].spent <= 0.5 * (2 * 2 + 5 * 6 * 10) + 10
    assert runner.starts == runner.closed == 1, "workers stay between rounds"
    assert len(set(runner.ran)) == len(runner.ran)


def test_full_draws_are_trials_of_the_full_study(question: Prepared) -> None:
    conduct(question, PaperRunner(question.results, losses(LEVELS)))
    study = load_study(f"{question.results}/study.yaml")
    planned = {trial.id for trial in plan.expand(study)}
    done = set(Results(question.results).read("trials")["trial_id"])
    assert done < planned
    assert len(planned) == 2 + 5 * 6
    screening = load_study(f"{question.results}/screening/study.yaml")
    assert set(Results(f"{question.results}/screening").read("trials")["trial_id"]) < {
        trial.id for trial in plan.expand(screening)
    }


@pytest.mark.parametrize("number", [1, 3, 9, 19])
def test_a_kill_changes_no_decision_and_repeats_no_trial(
    question: Prepared, number: int, tiny_model: Path, texts: list[Path], tmp_path: Path
) -> None:
    whole = prepared(question.question, tmp_path / "whole")
    expected = PaperRunner(whole.results, losses(LEVELS))
    conduct(whole, expected)

    def killed() -> None:
        raise KeyboardInterrupt

    first, second = (PaperRunner(question.results, losses(LEVELS)) for _ in range(2))
    first.at[number] = killed
    with pytest.raises(KeyboardInterrupt):
        conduct(question, first)
    assert first.closed == 1
    conduct(question, second)
    assert first.ran + second.ran == expected.ran
    assert decisions(question.results) == decisions(whole.results)
    third = PaperRunner(question.results, losses(LEVELS))
    conduct(question, third)
    assert third.ran == [] and third.starts == 0
    assert decisions(question.results) == decisions(whole.results)


def test_workers_of_the_first_command_share_the_budget_of_the_second(
    tiny_model: Path, texts: list[Path], tmp_path: Path
) -> None:
    ready = prepared(asked(tiny_model, texts, budget=60.0), tmp_path / "out")
    conduct(ready, PaperRunner(ready.results, losses(LEVELS), workers=3))
    assert record(ready.results)["ended"]["rules"]["budget"] == 180
    conduct(ready, PaperRunner(ready.results, losses(LEVELS), workers=8))
    assert record(ready.results)["ended"]["rules"]["budget"] == 180


def test_a_text_whose_trials_fail_is_an_outcome(question: Prepared) -> None:
    advice = conduct(question, PaperRunner(question.results, losses({**LEVELS, "a": float("nan")})))
    assert advice.verdict.arm == "uniform mixture"
    worst = advice.verdict.standings[-1]
    assert worst.arm == "a" and worst.failures >= 1


def test_nothing_runs_where_data_cannot_matter(tiny_model: Path, texts: list[Path], tmp_path: Path) -> None:
    ready = prepared(asked(tiny_model, texts, matters=(5.0,)), tmp_path / "out")
    runner = PaperRunner(ready.results, losses(LEVELS, control=4.0))
    advice = conduct(ready, runner)
    assert advice.verdict.kind == "cannot matter"
    assert runner.ran == [trial.id for trial in ready.design.controls["full"]]
    assert advice.trial == ready.design.controls["full"][1].id
    assert any("Use any: data cannot matter here" in line for line in advice.lines)


def test_two_targets_that_disagree_are_named(tiny_model: Path, texts: list[Path], tmp_path: Path) -> None:
    targets = [{"source": "heldout", "domain": name} for name in ("books", "code")]
    ready = prepared(asked(tiny_model, texts, targets=targets, share=1.0, sets=4), tmp_path / "out")
    there, back = losses(LEVELS, sd=0.3), losses({**LEVELS, "a": 20.0, "d": 9.0}, sd=0.3)
    advice = conduct(
        ready, PaperRunner(ready.results, lambda t, label: (there if label == "books" else back)(t, label))
    )
    found = advice.verdict.disagreements[0]
    assert {(found.first, found.best_first), (found.second, found.best_second)} == {("books", "a"), ("code", "d")}
    assert "books wants a" in " ".join(advice.lines)


def test_a_dense_model_that_fails_ends_it(question: Prepared) -> None:
    with pytest.raises(RunnerError, match="the dense model failed in compress: no; --retry-failed"):
        conduct(question, PaperRunner(question.results, lambda trial, label: None))


def test_the_record_tells_every_trial_of_every_round(question: Prepared) -> None:
    conduct(question, PaperRunner(question.results, losses(LEVELS)))
    found = record(question.results)
    assert len(found["rounds"]) >= 2
    assert {trial["trial_id"] for one in found["rounds"] for trial in one["trials"]} == set(
        pl.concat(
            Results(root).read("trials").filter(~pl.col("data_free"))["trial_id"]
            for root in (question.results, f"{question.results}/screening")
        )
    )


def test_workers_are_recorded_before_the_first_decision(
    tiny_model: Path, texts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = prepared(asked(tiny_model, texts, budget=60.0), tmp_path / "out")
    first = PaperRunner(ready.results, losses(LEVELS), workers=3)

    def killed() -> None:
        raise KeyboardInterrupt

    first.at[2] = killed  # the first trial after the controls
    with pytest.raises(KeyboardInterrupt):
        conduct(ready, first)
    conduct(ready, PaperRunner(ready.results, losses(LEVELS), workers=1))
    assert record(ready.results)["ended"]["rules"]["budget"] == 180


def test_trials_are_expected_to_cost_what_the_plan_says_of_them(question: Prepared) -> None:
    design = question.design
    conducted = Conduct(question.question, question.asked, design, None)  # type: ignore[arg-type]
    conducted.state.evaluate = 3 * expected(design.controls[FULL][-1]).evaluate  # a machine a third as fast
    full, screen = (expected(design.trials[Trial("a", 0, fidelity)]) for fidelity in (FULL, SCREEN))
    costs = conducted.costs()
    assert costs.full == pytest.approx(3 * (full.compress + full.evaluate))
    assert costs.screen == pytest.approx(3 * (screen.compress + screen.evaluate))


@pytest.fixture(scope="module")
def deep_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose first two blocks are a quarter of it."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "deep", blocks=8)


def with_blocks_of(cost: float) -> Callable[[plan.Trial], float]:
    """Seconds of trials where one of first blocks takes `cost`; the first trial of a study loads something as well."""
    seen: set[str] = set()

    def of(trial: plan.Trial) -> float:
        first = trial.spec is not None and trial.study not in seen
        seen.update([trial.study] if first else [])
        return (cost if trial.evaluation.first_blocks else seconds(trial)) + 20.0 * first

    return of


@pytest.mark.parametrize(
    ("cost", "kind", "other", "timed"),
    [(1.0, "first-blocks", "screening", 0), (5.0, "screening", "first-blocks", 2)],
)
def test_the_kind_of_screen_is_bought_that_takes_less_in_this_run(
    deep_model: Path, texts: list[Path], tmp_path: Path, cost: float, kind: str, other: str, timed: int
) -> None:
    ready = prepared(asked(deep_model, texts, share=0.5), tmp_path / "out")
    runner = PaperRunner(ready.results, losses(LEVELS))
    runner.seconds = with_blocks_of(cost)
    advice = conduct(ready, runner)
    assert advice.verdict.arm == "a"
    bought = Results(f"{ready.results}/{kind}").read("trials").filter(~pl.col("data_free"))
    assert set(bought["source"]) == set(LEVELS)
    assert Results(f"{ready.results}/{other}").read("trials").height == timed, (
        "foreseen to take far less, or never timed"
    )
    seen = [
        trial for one in record(ready.results)["rounds"] for trial in one["trials"] if trial["fidelity"] == "screen"
    ]
    assert {trial["trial_id"] for trial in seen} == set(bought["trial_id"]), "those of one kind alone are compared"
    told = "by the first 2 blocks" if kind == "first-blocks" else "by their first windows"
    assert any(step.reason.endswith(told) for step in advice.steps)
    every = sum(
        Results(f"{ready.results}{at}").read("trials")["seconds_total"].sum() for at in ("", f"/{kind}", f"/{other}")
    )
    assert advice.steps[-1].spent == pytest.approx(every)


def test_a_kill_while_kinds_of_screens_are_timed_changes_no_decision(
    deep_model: Path, texts: list[Path], tmp_path: Path
) -> None:
    def told(folder: str, killed_at: int | None) -> Any:
        ready = prepared(asked(deep_model, texts, share=0.5), tmp_path / folder)

        def killed() -> None:
            raise KeyboardInterrupt

        runner = PaperRunner(ready.results, losses(LEVELS))
        if killed_at is not None:
            runner.at[killed_at] = killed
            with pytest.raises(KeyboardInterrupt):
                conduct(ready, runner)
            runner = PaperRunner(ready.results, losses(LEVELS))
        conduct(ready, runner)
        return decisions(ready.results)

    assert told("whole", None) == told("three", 3) == told("seven", 7)


def test_a_study_that_is_continued_counts_no_trial_of_first_blocks(
    deep_model: Path, texts: list[Path], tmp_path: Path
) -> None:
    ready = prepared(asked(deep_model, texts, share=0.5), tmp_path / "out")
    runner = PaperRunner(ready.results, losses(LEVELS))
    runner.seconds = with_blocks_of(1.0)
    conduct(ready, runner)
    planned = {trial.id for trial in plan.expand(load_study(f"{ready.results}/study.yaml"))}
    first = set(Results(f"{ready.results}/first-blocks").read("trials")["trial_id"])
    assert first and not first & planned
    assert not set(Results(ready.results).read("trials")["first_blocks"].drop_nulls())


def test_the_race_that_was_asked_for_decides(tiny_model: Path, texts: list[Path], tmp_path: Path) -> None:
    """Between two texts that are nearly alike a belief cannot tell, and a race ends all the same."""
    ready = prepared(asked(tiny_model, texts, share=1.0, guarantee=True, uniform=False), tmp_path / "out")
    levels = {"a": 15.2, "b": 14.0, "c": 50.0, "d": 55.0}
    text = " ".join(conduct(ready, PaperRunner(ready.results, losses(levels))).lines)
    assert "Guaranteed: " in text
    survivor = text.split("Guaranteed: ")[1].split(" is left after ")[0]
    assert f"Use {survivor}." in text
    assert "cannot be told" not in text
