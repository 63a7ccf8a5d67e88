"""How many examples pay, before anything has run."""

from __future__ import annotations

import math

from sweep import plan
from sweep.config import load_study, parse_study
from sweep.runs.budget import examples_worth, shipped


def test_shipped_components_are_of_methods_of_the_default_study() -> None:
    methods = {trial.method_name for trial in plan.expand(load_study("reference"))}
    assert {row.method for row in shipped()} <= methods
    assert all(min(row.noise_sd, row.set_sd, row.seconds_per_example) > 0 for row in shipped())


def test_worth_is_the_formula_and_grows_with_the_root_of_the_calibration_set() -> None:
    row = shipped()[0]
    cost = row.seconds_without_test / row.seconds_per_example
    assert math.isclose(row.worth(row.tokens), math.sqrt(cost * (row.noise_sd / row.set_sd) ** 2))
    assert math.isclose(row.worth(4 * row.tokens), 2 * row.worth(row.tokens))


def test_the_plan_says_how_many_examples_pay() -> None:
    line = examples_worth(plan.expand(load_study("reference")))
    low, high = (round(f([row.worth(row.tokens) for row in shipped()])) for f in (min, max))
    told = [int(word.replace(",", "")) for word in line.split("about ")[1].split(" per trial")[0].split(" to ")]
    assert low <= told[0] <= told[-1] <= high
    assert line.startswith("test examples: 12 of each task; about ")


def test_a_study_without_calibration_is_told_nothing() -> None:
    document = {
        "study": "tiny",
        "models": ["reference-2m"],
        "methods": [{"method": "rtn", "bits": 4}],
        "evaluation": {"tasks": ["reference_lambada"]},
    }
    assert examples_worth(plan.expand(parse_study(document))) == ""
