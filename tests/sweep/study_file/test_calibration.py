from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calib.settings import SettingsError
from sweep.config import parse_study
from tests.sweep.conftest import changed


def test_axes_of_the_calibration_multiply(document: dict[str, Any]) -> None:
    study = parse_study(changed(document, "calibration.nsamples=[2, 4]", "calibration.sets=[0, 5]"))
    found = [(spec.source.label, spec.nsamples, spec.set) for spec in study.calibration]
    assert found == [(source, n, k) for source in ("rivers", "stones") for n in (2, 4) for k in (0, 5)]


def test_sets_of_several_sizes_are_nested_up_to_the_largest(document: dict[str, Any]) -> None:
    alone = parse_study(changed(document, "calibration.nsamples=2", "calibration.sets=2")).calibration
    several = parse_study(changed(document, "calibration.nsamples=[2, 4]", "calibration.sets=2"))
    assert {spec.max_nsamples for spec in alone} == {None}
    assert {spec.max_nsamples for spec in several.calibration} == {4}
    stated = parse_study(changed(document, "calibration.nsamples=2", "calibration.max_nsamples=8")).calibration
    assert {spec.max_nsamples for spec in stated} == {8}
    assert parse_study(several.document).calibration == several.calibration


def test_several_grids_of_calibration_add_up(document: dict[str, Any]) -> None:
    grid = document["calibration"]
    document["calibration"] = [grid, {**grid, "source": grid["source"][0], "nsamples": 2}]
    assert [spec.nsamples for spec in parse_study(document).calibration] == [4, 4, 2]


def test_calibration_follows_the_seed_of_the_study(document: dict[str, Any]) -> None:
    assert {spec.seed for spec in parse_study(changed(document, "seed=5")).calibration} == {5}
    assert {spec.seed for spec in parse_study(changed(document, "seed=5", "calibration.seed=6")).calibration} == {6}


def test_same_source_twice_is_refused(document: dict[str, Any]) -> None:
    document["calibration"]["source"][1] = document["calibration"]["source"][0]
    with pytest.raises(SettingsError, match=r"calibration.source\[1\].*is there twice"):
        parse_study(document)


def test_two_sources_with_one_label_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="two different sources are labelled 'rivers'"):
        parse_study(changed(document, "calibration.source[1].label=rivers"))


def test_label_of_a_pattern_does_not_depend_on_the_working_directory(
    document: dict[str, Any], tiny_texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_texts)
    document["calibration"]["source"] = {"source": "file", "path": "*.jsonl"}
    assert parse_study(document).calibration[0].source.label == "file"


def test_paths_of_every_kind_of_source_are_made_absolute(
    document: dict[str, Any], tiny_texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_texts)
    own = {"source": "file", "path": "rivers.jsonl", "share": 0.5}
    of_the_hub = {"source": "c4", "path": "stones.jsonl", "share": 0.5}
    document["calibration"]["source"] = [
        {key: value for key, value in of_the_hub.items() if key != "share"},
        {"source": "mixture", "parts": [own, of_the_hub]},
    ]
    alone, mixture = parse_study(document).document["calibration"]["source"]
    rivers, stones = str(tiny_texts / "rivers.jsonl"), str(tiny_texts / "stones.jsonl")
    assert alone["path"] == stones
    assert [part["path"] for part in mixture["parts"]] == [rivers, stones]


def test_how_windows_are_chosen_and_begun_are_axes(document: dict[str, Any]) -> None:
    axes = ("calibration.select=[null, lexical, {by: herding, pool: 2}]", "calibration.document_bos=[false, true]")
    study = parse_study(changed(document, *axes, "calibration.exclude_overlap=[false, 5]"))
    found = {
        (spec.select.label if spec.select else None, spec.document_bos, spec.source.excluded_words)
        for spec in study.calibration
    }
    rules = (None, "lexical", "herding (pool 2)")
    assert found == {(rule, bos, words) for rule in rules for bos in (False, True) for words in (None, 5)}
    assert {spec.source.label for spec in study.calibration} == {"rivers", "stones"}
    assert parse_study(study.document).calibration == study.calibration
    assert len({spec.id("tiny") for spec in study.calibration}) == len(study.calibration) == 24


def test_settings_that_are_not_used_change_no_id(document: dict[str, Any]) -> None:
    unused = ("select=null", "distinct=null", "document_bos=false", "first_token=bos", "exclude_overlap=false")
    stated = parse_study(changed(document, *(f"calibration.{setting}" for setting in unused)))
    assert [spec.id("tiny") for spec in stated.calibration] == [
        spec.id("tiny") for spec in parse_study(document).calibration
    ]


def test_first_token_of_windows_is_an_axis(document: dict[str, Any]) -> None:
    study = parse_study(changed(document, "calibration.add_bos=true", "calibration.first_token=[bos, eos]"))
    assert [spec.first_token for spec in study.calibration] == ["bos", "eos"] * 2


def test_repeated_sets_are_nested_in_their_different_windows(document: dict[str, Any]) -> None:
    study = parse_study(changed(document, "calibration.distinct=[1, 2, 4]", "calibration.nsamples=4"))
    assert {spec.max_nsamples for spec in study.calibration} == {4}
    assert [spec.distinct for spec in study.calibration[:3]] == [1, 2, 4]


def test_excluded_overlap_follows_what_is_evaluated(document: dict[str, Any]) -> None:
    def ids(*overrides: str) -> set[str]:
        study = parse_study(changed(document, "calibration.exclude_overlap=true", *overrides))
        return {spec.id("tiny") for spec in study.calibration}

    assert ids() == ids("evaluation.bootstrap_iters=10")
    assert not ids() & ids("evaluation.limit=3")
    assert not ids() & {spec.id("tiny") for spec in parse_study(document).calibration}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("calibration.exclude_overlap=1", "calibration.exclude_overlap: expected true, false or a number of words"),
        ("calibration.exclude_overlap=all", "calibration.exclude_overlap: expected true, false or a number of words"),
        ("calibration.select=[random, lexcal]", r"calibration.select\[1\].by: unknown selection 'lexcal'"),
        ("calibration.select=[random, random]", r"calibration.select\[1\]: 'random' is there twice"),
        ("calibration.distinct=[2, 3]", "calibration.distinct: 3 windows cannot each stand equally often"),
        ("calibration.first_token=eos", "calibration.first_token: 'eos' needs add_bos: true"),
        ("calibration.document_bos=1", "calibration.document_bos: expected"),
    ],
)
def test_wrong_ways_to_choose_windows_are_refused(document: dict[str, Any], override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_study(changed(document, override))
