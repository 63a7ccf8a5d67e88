from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calib.spec import CalibrationSpec
from sweep.study_file.calibration import parse_calibration
from sweep.study_file.naming import set_name, varied


def specs(**levels: Any) -> list[CalibrationSpec]:
    section = {"source": "books", "sets": 1, "nsamples": 16, "seqlen": 64, **levels}
    return parse_calibration(section, 0, 1, Path(), lambda: "")[0]


@pytest.mark.parametrize(
    ("levels", "names"),
    [
        ({"sets": 2}, ["books set 0", "books set 1"]),
        ({"nsamples": [8, 16]}, ["books set 0 · 8 windows", "books set 0 · 16 windows"]),
        ({"select": ["random", "herding"]}, ["books set 0 · select random", "books set 0 · select herding"]),
        ({"select": [None, "lexical"]}, ["books set 0", "books set 0 · select lexical"]),
        ({"part": ["both", "response"]}, ["books set 0", "books set 0 · part response"]),
        ({"document_bos": [False, True]}, ["books set 0", "books set 0 · document_bos"]),
        ({"length_weights": [None, [32, 64]]}, ["books set 0", "books set 0 · length_weights 32 64"]),
        ({"distinct": [None, 4], "seqlen": [32, 64]}, None),
    ],
)
def test_names_tell_sets_apart_by_what_varies(levels: dict[str, Any], names: list[str] | None) -> None:
    made = specs(**levels)
    found = [set_name(spec, varied(made)) for spec in made]
    assert len(set(found)) == len(made)
    assert names is None or found == names
