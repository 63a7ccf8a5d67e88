"""The sentences of a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from tests.sweep.conftest import changed


def plan_of(
    launch: Callable[..., Result], write_study: Callable[[dict[str, Any]], str], document: dict[str, Any]
) -> list[str]:
    result = launch(write_study(document), "--dry-run")
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.output.splitlines()]


@pytest.mark.parametrize(("description", "first"), [("", "tiny"), ("A first\nlook.", "tiny: A first look.")])
def test_plan_begins_with_the_name_and_what_is_said_of_it(
    description: str,
    first: str,
    launch: Callable[..., Result],
    write_study: Callable[[dict[str, Any]], str],
    document: dict[str, Any],
) -> None:
    assert plan_of(launch, write_study, {**document, "description": description})[0] == first


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (
            (),
            [
                "calibration: 2 sets from 2 sources (rivers, stones)",
                "evaluation: tasks tiny; 1 held-out text of 2 windows",
            ],
        ),
        (
            ("evaluation.tasks=[]", "evaluation.heldout_windows=1"),
            ["evaluation: tasks none; 1 held-out text of 1 window"],
        ),
        (("evaluation.heldout_windows=null",), ["evaluation: tasks tiny; 1 held-out text of all windows"]),
        (("evaluation.heldout=[]", "evaluation.heldout_windows=null"), ["evaluation: tasks tiny; no held-out text"]),
        (("methods=[rtn]",), ["calibration: none"]),
    ],
)
def test_plan_counts_as_one_speaks(
    change: tuple[str, ...],
    lines: list[str],
    launch: Callable[..., Result],
    write_study: Callable[[dict[str, Any]], str],
    document: dict[str, Any],
) -> None:
    found = plan_of(launch, write_study, changed(document, *change))
    assert [line for line in lines if line not in found] == [], found


def test_plan_of_one_source_names_a_source(
    launch: Callable[..., Result], write_study: Callable[[dict[str, Any]], str], document: dict[str, Any]
) -> None:
    document["calibration"]["source"] = document["calibration"]["source"][:1]
    assert "calibration: 1 set from 1 source (rivers)" in plan_of(launch, write_study, document)
