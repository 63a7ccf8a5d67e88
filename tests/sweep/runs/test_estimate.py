"""What a plan says of its time: near what was measured, and from trials that are there before anything else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from sweep import plan
from sweep.config import load_study, parse_study
from sweep.runs.estimate import Machines, estimate, expected, expected_seconds

NONE = pl.DataFrame(
    schema={"status": pl.String, "model": pl.String, "method_label": pl.String, "seconds_total": pl.Float64}
)


def test_published_study_costs_what_was_measured() -> None:
    trials = plan.expand(load_study("paper_a", []))
    hours = sum(map(expected_seconds(NONE), trials)) / 3600
    assert hours == pytest.approx(110, rel=0.1)  # docs/performance.md
    assert "110.6 GPU hours of an H100" in estimate(trials, NONE, Machines(1, "cpu"))
    assert "about 1 d 3 h with 4 workers on GPUs" in estimate(trials, NONE, Machines(4, "cuda"))


def test_default_study_takes_minutes_and_all_cores() -> None:
    trials = plan.expand(load_study("reference", []))
    seconds = sum(map(expected_seconds(NONE), trials))
    assert seconds == pytest.approx(430, rel=0.2)  # docs/log.md
    assert estimate(trials, NONE, Machines(2, "cpu")).startswith("estimate: about 3 min")
    assert "on 2 cores here" in estimate(trials, NONE, Machines(2, "cpu"))
    assert "on one core here" in estimate(trials[:1], NONE, Machines(8, "cpu"))


def test_trials_that_are_there_decide(document: dict[str, Any]) -> None:
    trials = plan.expand(parse_study(document))
    rows = [("ok", trial.model.name, trial.label, 60.0) for trial in trials]
    before = pl.DataFrame(rows, NONE.schema, orient="row")
    said = estimate(trials[:4], before, Machines(2, "cpu"))
    assert said == "estimate: 2 min 0 s with 2 workers, from the trials that are there already"


@pytest.mark.parametrize("method", ["nf4", "hqq"])
def test_data_free_quantizers_cost_no_more_than_rounding(method: str, document: dict[str, Any]) -> None:
    def seconds(name: str) -> float:
        document["methods"] = [{"method": name, "bits": 4}] if name != "nf4" else [{"method": name}]
        trials = plan.expand(parse_study(document))
        return sum(expected_seconds(NONE)(trial, on_gpu=True) for trial in trials if trial.method)

    assert seconds(method) == seconds("rtn")


def test_a_rotation_costs_a_little_beside_the_method_behind_it(document: dict[str, Any]) -> None:
    found = []
    for entry in ({"method": "rtn"}, [{"method": "rotation"}, {"method": "rtn"}], {"method": "gptq"}):
        document["methods"] = [entry]
        trials = [trial for trial in plan.expand(parse_study(document)) if trial.method]
        found.append(expected_seconds(NONE)(trials[0], on_gpu=True))
    assert found[0] < found[1] < found[2]


@pytest.mark.parametrize(("name", "known"), [("OPT-6.7B", True), ("SmolLM2-135M", True), ("Mystery", False)])
def test_size_of_a_model_that_is_not_here_is_in_its_name(name: str, known: bool, document: dict[str, Any]) -> None:
    document["models"] = [{"model": f"someone/{name}", "max_length": 64, "name": name}]
    said = estimate(plan.expand(parse_study(document)), NONE, Machines(1, "cuda"))
    assert (" GPU " in said) == known
    assert known or f"nothing says how large {name} is" in said


def test_a_trial_is_expected_to_take_its_parts_and_a_larger_model_as_much_longer(document: dict[str, Any]) -> None:
    trial = plan.expand(parse_study(document))[-1]
    parts = expected(trial)
    assert parts.compress > 0 and parts.evaluate > 0
    assert expected_seconds(NONE)(trial) == parts.floor + parts.compress + parts.evaluate
    larger = replace(trial, model=replace(trial.model, parameters=3 * trial.model.parameters))
    assert expected(larger).compress == pytest.approx(3 * parts.compress)
    unnamed = replace(trial, model=replace(trial.model, name="mystery", path="mystery", parameters=None))
    assert expected(unnamed, on_gpu=False, unknown=1.0).evaluate == pytest.approx(
        parts.evaluate / trial.model.parameters
    )
