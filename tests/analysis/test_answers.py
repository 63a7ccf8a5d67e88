"""Answers per model and method, and the difference that matters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.answers import PLAIN, answer_table, matters_of, parse_matters
from analysis.budget import budget_table
from analysis.estimates.equivalence import ANY, UNCLEAR, USE
from analysis.estimates.examples import ExampleTables, read_examples
from analysis.evidence import Evidence
from analysis.frames import Study, load
from calib.settings import SettingsError


@pytest.fixture(scope="module")
def study(simulated: Path) -> Study:
    return load(str(simulated))


@pytest.fixture(scope="module")
def examples(study: Study) -> ExampleTables:
    return read_examples(study)


def test_every_model_and_method_has_an_answer_with_a_probability(study: Study, examples: ExampleTables) -> None:
    for measure in ("accuracy", "perplexity_increase"):
        table = answer_table(study, measure, examples=examples)
        assert table.height == 8
        assert set(table["answer"]) <= {USE, ANY, UNCLEAR}
        assert (table["about"] == "the task").all()
        told = table.filter(answer=UNCLEAR)
        assert (told["never_settled"] >= 0).all()
        assert table.filter(answer=USE)["settled_chance"].null_count() == table.filter(answer=USE).height


def test_default_is_a_tenth_of_what_no_data_costs_with_a_floor(study: Study, examples: ExampleTables) -> None:
    floors = []
    for measure in ("accuracy", "perplexity_increase"):
        table = answer_table(study, measure, examples=examples)
        row = table.filter(model="small", method_label="Wanda 50%").row(0, named=True)
        values = study.main.filter(model="small", measure=measure, task="mean")
        dense, control = (values.filter(method_label=label).item(0, "value") for label in ("dense", "Magnitude 50%"))
        draws = values.filter(method_label="Wanda 50%").group_by("source").agg(pl.col("value").var())["value"]
        tenth, half = 0.1 * abs(dense - control), 0.5 * float(np.mean(draws.to_numpy())) ** 0.5
        assert np.isclose(row["matters"], max(tenth, half))
        floors.append(half > tenth)
    assert floors == [True, False]  # near chance a tenth of the gap is next to nothing


def test_where_a_large_difference_matters_any_source_will_do(study: Study, examples: ExampleTables) -> None:
    table = answer_table(study, matters=50.0, examples=examples)
    assert (table["answer"] == ANY).all()
    assert (table["all_will_do"] > 0.9).all()


def test_differences_that_matter_are_read_by_measure() -> None:
    assert parse_matters("accuracy=0.5, perplexity_increase=2") == {"accuracy": 0.5, "perplexity_increase": 2.0}
    assert parse_matters("") == {}
    assert parse_matters("0.5") == {PLAIN: 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acuracy=1", "did you mean 'accuracy'"),
        ("accuracy", "expected accuracy=NUMBER"),
        ("accuracy=-1", "above 0"),
        ("accuracy=inf", "finite"),
        ("abc", "expected NUMBER or MEASURE=NUMBER, got 'abc'"),
        ("accuracy=abc", "expected accuracy=NUMBER, got 'accuracy=abc'"),
        ("-0.5", "finite difference above 0, got '-0.5'"),
        ("nan", "finite difference above 0"),
        ("accuracy=1,accuracy=2", "accuracy is given twice"),
        ("brier=1,brier_change=2", "brier_change is given twice"),
        ("0.5,1", "a number without a measure is given twice"),
    ],
)
def test_other_differences_are_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_matters(text)


def test_without_recorded_seconds_there_is_no_budget(study: Study, examples: ExampleTables) -> None:
    assert budget_table(study, examples=examples).is_empty()


def test_why_there_is_no_gap_is_said(study: Study) -> None:
    cells = {"books": np.array([1.0, 2.0]), "code": np.array([1.0, 3.0])}
    told = {
        name: matters_of(changed, "small", ["Wanda 50%"], "accuracy", ["mean"], cells).why
        for name, changed in {
            "no dense": replace(study, values=study.values.filter(pl.col("method") != "dense")),
            "no control": replace(study, trials=study.trials.filter(pl.col("method_label") != "Magnitude 50%")),
            "no gap": replace(study, values=study.values.with_columns(pl.lit(50.0).alias("value"))),
        }.items()
    }
    assert told == {
        "no dense": "half an SD of one draw, for want of a dense model",
        "no control": "half an SD of one draw, for want of a data-free control of the size of Wanda 50%",
        "no gap": "half an SD of one draw, as dense and the data-free control do not differ",
    }


def test_a_difference_of_a_measure_is_one_of_its_change(study: Study) -> None:
    evidence = Evidence(study, {"loglikelihood": 0.5, "accuracy": 1.0})
    assert evidence.asked("loglikelihood_change") == 0.5
    assert evidence.asked("accuracy") == 1.0
    assert evidence.asked("perplexity_increase") is None
    alone = Evidence(study, {PLAIN: 0.25})
    alone.check_matters()
    assert {measure: alone.asked(measure) for measure in (alone.lead, "perplexity_increase")} == {
        alone.lead: 0.25,
        "perplexity_increase": None,
    }


def test_a_difference_that_no_answer_uses_is_refused(study: Study) -> None:
    Evidence(study, {"accuracy": 1.0}).check_matters()
    with pytest.raises(SettingsError, match="no answer is about top1_agreement; .*accuracy"):
        Evidence(study, {"top1_agreement": 1.0}).check_matters()
