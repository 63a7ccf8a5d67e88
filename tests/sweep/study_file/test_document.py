from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calib.settings import SettingsError
from sweep.config import apply_override, read_document
from tests.sweep.conftest import changed


def test_override_reaches_nested_keys_and_list_items(document: dict[str, Any]) -> None:
    result = changed(document, "calibration.sets=2", "methods[1].bits=4", "calibration.source[0].label=mine")
    assert result["calibration"]["sets"] == 2
    assert result["methods"][1]["bits"] == 4
    assert result["calibration"]["source"][0]["label"] == "mine"


def test_override_values_are_yaml(document: dict[str, Any]) -> None:
    result = changed(document, "methods=[{method: wanda, pattern: 2:4}]", "seed=7", "evaluation.limit=null")
    assert result["methods"] == [{"method": "wanda", "pattern": "2:4"}]
    assert result["seed"] == 7
    assert result["evaluation"]["limit"] is None


def test_override_makes_missing_mappings(document: dict[str, Any]) -> None:
    del document["calibration"]
    assert changed(document, "calibration.sets=2")["calibration"] == {"sets": 2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("methods[9].bits=4", "methods has 3 items, [0] to [2]"),
        ("methods.bits=4", "so it has no key 'bits' (items are methods[0] to methods[2])"),
        ("study.name=x", "study is 'tiny', so it has no key 'name'"),
        ("calibration[0]=x", "calibration is not a list"),
        ("calibration.sets", "expected key=value"),
        ("a..b=1", "expected key=value"),
        ("seed=[1", "line 1"),
    ],
)
def test_override_that_leads_nowhere_is_explained(document: dict[str, Any], override: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        apply_override(document, override)
    assert message in str(error.value)
    assert override in str(error.value)


def test_yaml_is_read_as_people_mean_it(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("pattern: 2:4\nsmall: 1e-3\nwhole: -12\nreal: .5\nflag: true\n")
    assert read_document(path) == {"pattern": "2:4", "small": 1e-3, "whole": -12, "real": 0.5, "flag": True}


def test_yaml_anchors_work(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("base: &base {bits: 3}\nother: {<<: *base, group_size: 8}\n")
    assert read_document(path)["other"] == {"bits": 3, "group_size": 8}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("- a\n- b\n", "expected a mapping"),
        ("study: a\nstudy: b\n", "line 1: the key 'study' is there twice"),
        ("study: a\nmodels: [x\n", "line 3"),
    ],
)
def test_unusable_study_file_is_named_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        read_document(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
