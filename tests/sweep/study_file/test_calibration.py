from __future__ import annotations

from typing import Any

import pytest

from calib.settings import SettingsError
from sweep.config import parse_study
from tests.sweep.conftest import changed


def test_axes_of_the_calibration_multiply(document: dict[str, Any]) -> None:
    study = parse_study(changed(document, "calibration.nsamples=[2, 4]", "calibration.sets=[0, 5]"))
    found = [(spec.source.label, spec.nsamples, spec.set) for spec in study.calibration]
    assert found == [(source, n, k) for source in ("rivers", "stones") for n in (2, 4) for k in (0, 5)]


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
