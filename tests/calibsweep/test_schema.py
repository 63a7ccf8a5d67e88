"""The schema of a study: true to the dataclasses that read it, and to every study that ships."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from calib.source import SOURCES
from calib.yamltext import read_yaml, read_yaml_file
from calibsweep.schema import field_docstrings, study_schema
from methods.base import METHODS
from sweep.config import STUDIES, StudyFile, study_names
from sweep.evaluation.settings import EvaluationSettings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return study_schema()


def faults(schema: dict[str, Any], study: Any) -> list[str]:
    return [fault.message for fault in jsonschema.Draft7Validator(schema).iter_errors(study)]


@pytest.mark.parametrize("name", study_names())
def test_every_study_that_ships_fits_and_names_its_schema(schema: dict[str, Any], name: str) -> None:
    file = STUDIES / f"{name}.yaml"
    assert faults(schema, read_yaml_file(file)) == []
    assert file.read_text().startswith("# yaml-language-server: $schema=study.schema.json\n")


def test_the_schema_that_ships_is_the_one_of_the_code() -> None:
    """In a process of its own: other tests register methods and sources in this one."""
    told = subprocess.run([sys.executable, "-m", "calibsweep", "schema"], capture_output=True, check=True, cwd=ROOT)
    shipped = json.loads((STUDIES / "study.schema.json").read_text())
    assert shipped == json.loads(told.stdout), "run: calibsweep schema > sweep/studies/study.schema.json"


STUDY = """
study: mine
models: [reference-2m]
methods: [{method: gptq, bits: [3, 4]}, [{method: sparsegpt, sparsity: 0.5}, {method: gptq, bits: 4}]]
calibration: {source: [books, {source: noisy, of: code, kind: typos, rate: 0.1}], sets: 2, nsamples: [4, 8]}
evaluation: {tasks: [reference_piqa], heldout: [books]}
"""


def test_axes_compositions_and_sources_inside_sources_fit(schema: dict[str, Any]) -> None:
    assert faults(schema, read_yaml(STUDY)) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("study: mine", "studdy: mine"),
        ("bits: [3, 4]", "bits: [3, 40]"),
        ("bits: [3, 4]", "bit: 3"),
        ("method: gptq, bits: [3, 4]", "method: gtpq"),
        ("nsamples: [4, 8]", "nsamples: [4, many]"),
        ("tasks: [reference_piqa]", "task: reference_piqa"),
        ("rate: 0.1", "share: 0.1"),
    ],
)
def test_typos_are_found(schema: dict[str, Any], right: str, wrong: str) -> None:
    assert right in STUDY
    assert faults(schema, read_yaml(STUDY.replace(right, wrong)))


def test_every_method_and_source_is_named(schema: dict[str, Any]) -> None:
    text = json.dumps(schema["definitions"])
    for name in (*METHODS.names(), *SOURCES.names()):
        assert f'"const": "{name}"' in text


def test_keys_say_what_they_mean(schema: dict[str, Any]) -> None:
    told = schema["definitions"]["evaluation"]["properties"]["limit"]["description"]
    assert told == field_docstrings(EvaluationSettings)["limit"] == "First examples of each task; None takes all."
    assert field_docstrings(StudyFile)["study"] == "Name of the study, and of its results folder."


def test_the_schema_travels_with_the_packages() -> None:
    assert Path(STUDIES, "study.schema.json").is_file()
