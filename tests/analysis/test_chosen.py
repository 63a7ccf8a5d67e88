from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from analysis.chosen import _reference_rule, choice_table
from analysis.frames import Study, load
from analysis.measures import MEAN
from sweep.results import Results


def test_study_that_varies_nothing_has_no_choices(simulated: Path) -> None:
    assert choice_table(load(str(simulated)), "accuracy").is_empty()


@pytest.fixture
def selected(simulated: Path, tmp_path: Path) -> Study:
    """The simulated study, whose sets of 16 windows are called random and those of 4 windows lexical."""
    root = Path(shutil.copytree(simulated, tmp_path / "study"))
    results = Results(root)
    for row in results.read("trials").drop_nulls("source").iter_rows(named=True):
        rule = "random" if row["nsamples"] == 16 else "lexical"
        changed = {"nsamples": 16, "planned_nsamples": 16, "select": rule, "seconds_select": 0.25}
        results.write_table("trials", row["trial_id"], [{**row, **changed, "document_bos": False}])
    return load(str(root))


def test_rule_is_compared_with_random_on_the_same_sets(selected: Study) -> None:
    table = choice_table(selected, "perplexity_increase")
    assert set(table["axis"]) == {"select"}
    assert set(table["level"]) == {"lexical"}
    assert set(table["reference"]) == {"random"}
    row = table.filter(model="small", method_label="Wanda 50%").row(0, named=True)
    values = selected.values.filter(measure="perplexity_increase", task=MEAN, model="small", method_label="Wanda 50%")
    wide = values.join(selected.trials.select("trial_id", "select"), on="trial_id").pivot(
        on="select", index=["source", "set"], values="value"
    )
    assert row["difference"] == pytest.approx((wide["random"] - wide["lexical"]).mean())
    assert (row["mean"], row["mean_reference"]) == pytest.approx((wide["lexical"].mean(), wide["random"].mean()))
    assert row["low"] < row["difference"] < row["high"]
    assert (row["pairs"], row["sources"], row["seconds"]) == (9, 3, 0.25)
    assert row["p"] <= row["p_holm"] <= 1


def test_rules_stand_in_the_conditions(selected: Study) -> None:
    conditions = selected.trials["condition"].drop_nulls().unique().sort()
    assert conditions.to_list() == ["16×256 windows, select lexical", "16×256 windows, select random"]
    assert selected.trials.filter(pl.col("source").is_null())["condition"].is_null().all()


def test_rules_with_pools_of_their_own_are_compared_with_random_choice_out_of_the_same_pool(selected: Study) -> None:
    trials = selected.trials.with_columns(
        select=pl.col("select").replace({"random": "random (pool 4)", "lexical": "lexical (pool 4)"})
    )
    pooled = choice_table(replace(selected, trials=trials), "perplexity_increase")
    assert set(pooled["reference"]) == {"random (pool 4)"}
    assert pooled["difference"].to_list() == choice_table(selected, "perplexity_increase")["difference"].to_list()


@pytest.mark.parametrize(
    ("level", "levels", "reference"),
    [
        (
            "herding (pool 4, target books)",
            ["herding (pool 4, target books)", "random", "random (pool 4)"],
            "random (pool 4)",
        ),
        ("lexical", ["lexical", None, "random (pool 4)"], None),
        ("random", ["lexical", None, "random"], None),
        ("lexical (pool 4)", ["herding", "lexical (pool 4)", "random"], "random"),
        ("lexical", ["herding", "lexical"], "herding"),
    ],
)
def test_reference_of_a_rule(level: str, levels: list[str | None], reference: str | None) -> None:
    assert _reference_rule(level, levels) == reference
