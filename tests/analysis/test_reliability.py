from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from analysis.cells import everything, source_table, tasks_without, worth_table
from analysis.evidence import Evidence
from analysis.findings import findings
from analysis.frames import load
from analysis.measures import MEAN, MEASURES
from analysis.reliability import lead_table, leading, reliability_table
from analysis.simulate import Components, Design, simulate_study
from analysis.variance import component_table
from analysis.verdicts import heading, verdicts


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose answers have log-likelihoods, which feel the sources, and whose right or wrong is mostly noise."""
    root = tmp_path_factory.mktemp("told")
    design = Design(
        models={"small": 2_000_000},
        sets=3,
        tasks={"lambada": 60, "piqa": 50},
        windows=8,
        worth=True,
        components=Components(source=0.03, set=0.005, source_example=0.01),
    )
    simulate_study(str(root), design)
    return root


def test_what_answers_are_worth_leads_where_right_or_wrong_cannot_tell(told: Path) -> None:
    study = load(str(told))
    table = reliability_table(study)
    lead = lead_table(table)
    assert lead.item(0, "measure") in ("loglikelihood", "probability", "brier")
    assert lead.item(0, "reliability") > 0.8 > lead.filter(measure="accuracy").item(0, "reliability")
    assert leading(study, table) == lead.item(0, "measure") + "_change"
    assert leading(study, table.filter(measure="accuracy")) == "accuracy"
    assert leading(study, table.clear()) == "accuracy"
    whole = table.filter(task=MEAN, measure="loglikelihood")
    assert whole["examples"].unique().to_list() == [110]
    assert set(table.filter(measure="perplexity")["examples"]) == {8, 48}


def test_a_mean_over_some_tasks_says_which_it_leaves_out(told: Path) -> None:
    """As of a task whose answers are generated: it has an accuracy, and nothing else."""
    study = load(str(told))
    worth = pl.col("measure").str.starts_with("loglikelihood") | pl.col("measure").str.starts_with("brier")
    part = replace(study, values=study.values.filter(~(worth & (pl.col("task") == "piqa"))))
    assert tasks_without(part, "loglikelihood_change") == ["piqa"]
    assert tasks_without(part, "accuracy") == tasks_without(study, "loglikelihood") == []
    assert tasks_without(part, "perplexity") == []
    assert everything(part, "brier_change") == "all tasks but piqa, which has no Brier score"
    assert everything(part, "accuracy") == "all tasks"
    assert everything(part, "perplexity_increase") == "all held-out texts"
    evidence = Evidence(part)
    found = verdicts(evidence)
    asked = [replace(verdict, measure="loglikelihood_change") for verdict in found]
    assert "(higher is better; piqa has none)" in heading(evidence, asked)[1]
    assert "none" not in heading(Evidence(study), asked)[1]


def test_changes_are_the_values_minus_dense(told: Path) -> None:
    study = load(str(told))
    wide = study.main.filter(pl.col("measure").is_in(["brier", "brier_change"]), task="piqa")
    wide = wide.pivot(on="measure", index=["trial_id", "method", "model"], values="value")
    dense = wide.filter(method="dense").item(0, "brier")
    assert wide.height > 10
    assert (wide["brier"] - dense - wide["brier_change"]).abs().max() < 1e-6
    assert wide.filter(method="dense").item(0, "brier_change") == 0


def test_measures_of_answers_have_tables_and_components(told: Path) -> None:
    study = load(str(told))
    for measure in ("loglikelihood", "probability", "brier"):
        table = component_table(study, measure).filter(task=MEAN)
        assert table.filter(component="source")["sd"].drop_nulls().max() > 0
        assert component_table(study, f"{measure}_change").equals(component_table(study, measure))
        assert source_table(study, f"{measure}_change")["mean"].null_count() == 0


def test_every_measure_of_answers_stands_beside_dense(told: Path) -> None:
    table = worth_table(load(str(told)))
    assert table.columns == ["model", "method_label", "trials", "accuracy", "loglikelihood", "probability", "brier"]
    wanda = table.filter(method_label="Wanda 50%")
    assert wanda.item(0, "trials") == 18
    assert "±" in wanda.item(0, "brier")
    assert "±" not in table.filter(method_label="dense").item(0, "loglikelihood")


def test_findings_begin_with_the_measure_that_can_tell_and_state_n(told: Path) -> None:
    evidence = Evidence(load(str(told)))
    found = [finding.text for finding in findings(evidence)]
    assert found[0].startswith(MEASURES[evidence.lead].title + " (n = 1")
    assert "tells the sources apart best of all measures of tasks" in found[1]
    assert "accuracy (n = 110) has" in found[1]
    assert evidence.lead in ("loglikelihood_change", "probability_change", "brier_change")
    named = [text for text in found[2:] if text.startswith("Accuracy") or " accuracy" in text]
    assert named
    assert all("(n = 110 examples)" in text for text in named)


def test_a_folder_of_an_older_version_has_accuracy_alone(simulated: Path) -> None:
    evidence = Evidence(load(str(simulated)))
    assert evidence.lead == "accuracy"
    text = next(finding.text for finding in findings(evidence) if finding.table == "table-lead")
    assert text.startswith("Accuracy comes closest to telling the sources apart, and no measure of tasks can")
    assert set(evidence.examples.reliability["measure"]) == {"accuracy", "perplexity", "js_divergence"}
