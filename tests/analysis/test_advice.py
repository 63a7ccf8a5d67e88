"""The record of an adviser as frames, and as the first section of the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analysis.advice import belief_table, draw_table, look_table, read_record
from analysis.charts.race import race_figure
from analysis.evidence import Evidence
from analysis.frames import Study, load
from analysis.page.html import Figure, Table
from analysis.pages.adviser import section


def standing(arm: str, loss: float, fulls: int) -> dict[str, Any]:
    found = {"arm": arm, "loss": loss, "low": loss - 1, "high": loss + 1, "p_best": 0.5, "regret": 0.1}
    return {**found, "screens": 3, "fulls": fulls, "failures": 0}


def trial(arm: str, draw: int, fidelity: str, values: list[float]) -> dict[str, Any]:
    name = f"{arm}-{draw}-{fidelity}"
    found = {"arm": arm, "draw": draw, "fidelity": fidelity, "values": values, "failed": not values}
    return {**found, "seconds": 2.0, "trial_id": name}


def rounds(targets: int) -> list[dict[str, Any]]:
    tried = [
        [trial(arm, 0, "screen", [level] * targets) for arm, level in (("<b>", 5.0), ("code", 6.0))],
        [trial("<b>", 0, "full", [4.0] * targets), trial("code", 0, "full", [])],
        [trial("<b>", 1, "full", [4.5] * targets)],
    ]
    return [
        {
            "number": number,
            "reason": "why",
            "spent": 60.0 * number,
            "deciding": 0.1,
            "trials": trials,
            "verdict": {"standings": [standing("<b>", 4.0, number - 1), standing("code", 6.0, 0)]},
        }
        for number, trials in enumerate(tried, 1)
    ]


def record(targets: tuple[str, ...] = ("mine",)) -> dict[str, Any]:
    return {
        "version": 1,
        "model": "small",
        "method": "GPTQ 3-bit",
        "targets": [{"name": name, "unit": "% of perplexity", "measure": "text"} for name in targets],
        "looks": [{"arm": "<b>", "documents": 9, "tokens": 900, "copied": 0, "descriptors": {"a": 1.5, "b": None}}],
        "rounds": rounds(len(targets)),
        "lines": ["Use <b>.", "python -m sweep.export x"],
    }


def advised(simulated: Path, folder: Path, content: Any) -> Study:
    """The simulated study with this record beside it."""
    shutil.copytree(simulated, folder / "study")
    (folder / "study" / "adviser.json").write_text(json.dumps(content))
    return load(str(folder / "study"))


def test_a_folder_without_a_record_has_no_advice(simulated: Path) -> None:
    study = load(str(simulated))
    assert read_record(study) is None
    assert belief_table(study).is_empty() and draw_table(study).is_empty() and look_table(study).is_empty()
    found = section(Evidence(study))
    assert not (found.text or found.items or found.notes)


def test_tables_hold_what_was_decided(simulated: Path, tmp_path: Path) -> None:
    study = advised(simulated, tmp_path, record())
    beliefs = belief_table(study)
    assert beliefs.select("round", "minutes", "arm", "fulls").rows()[-2:] == [(3, 3.0, "<b>", 2), (3, 3.0, "code", 0)]
    draws = draw_table(study)
    assert draws["loss"].to_list() == [5.0, 6.0, 4.0, None, 4.5]
    assert draws["failed"].to_list() == [False, False, False, True, False]
    assert look_table(study).rows() == [("<b>", 9, 900, 0, 1.5)]


def test_the_section_says_the_answer_and_draws_the_race(simulated: Path, tmp_path: Path) -> None:
    found = section(Evidence(advised(simulated, tmp_path, record())))
    assert "Use &lt;b&gt;." in found.text[0]
    figure, *tables = found.items
    assert isinstance(figure, Figure) and all(isinstance(table, Table) for table in tables)
    svg = figure.variants[0][1].svg()
    assert svg.count("code") >= 2, "an arm stands on the axis above and in the legend below"


def test_a_record_that_is_not_done_says_so(simulated: Path, tmp_path: Path) -> None:
    found = section(Evidence(advised(simulated, tmp_path, {**record(), "lines": []})))
    assert "not done: 3 rounds so far" in found.text[0]


@pytest.mark.parametrize(
    ("content", "why"), [({"version": 99}, "is not of version 1"), ({"version": 1}, "says nothing of lines, looks")]
)
def test_a_record_that_cannot_be_read_costs_the_report_nothing_else(
    simulated: Path, tmp_path: Path, content: Any, why: str
) -> None:
    found = section(Evidence(advised(simulated, tmp_path, content)))
    assert why in found.notes[0]
    assert not found.items


@pytest.mark.parametrize("targets", [("mine",), ("mine", "yours")])
def test_draws_stand_in_the_race_of_one_target(simulated: Path, tmp_path: Path, targets: tuple[str, ...]) -> None:
    study = advised(simulated, tmp_path, record(targets))
    figure = section(Evidence(study)).items[0]
    assert isinstance(figure, Figure)
    layers = figure.variants[0][1].body["vconcat"][0]["layer"]
    assert len(layers) == (4 if len(targets) == 1 else 3), "interval before, interval now, mean, and draws"


def test_what_was_believed_before_is_drawn_from_the_first_full_draws_on(simulated: Path, tmp_path: Path) -> None:
    study = advised(simulated, tmp_path, record())
    beliefs = belief_table(study)
    layers = race_figure(beliefs, draw_table(study).clear(), "", "").body["vconcat"][0]["layer"]
    assert layers[0]["mark"]["color"] != layers[1]["mark"]["color"]
    early = beliefs.filter(beliefs["round"] <= 2)
    assert len(race_figure(early, draw_table(study).clear(), "", "").body["vconcat"][0]["layer"]) == len(layers) - 1


def test_a_single_trial_that_was_timed_first_is_no_belief_to_draw(simulated: Path, tmp_path: Path) -> None:
    study = advised(simulated, tmp_path, record())
    none = draw_table(study).clear()
    one = belief_table(study)
    second = (pl.col("arm") == "code") & (pl.col("round") == 3)
    two = one.with_columns(pl.when(second).then(pl.lit(1)).otherwise(pl.col("fulls")).alias("fulls"))
    layers = [len(race_figure(beliefs, none, "", "").body["vconcat"][0]["layer"]) for beliefs in (one, two)]
    assert layers[1] == layers[0] - 1
