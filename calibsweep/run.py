"""`calibsweep run [STUDY]`: run what is missing of a study, then say on one screen what it found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis import summary
from calibsweep.console import OK, answer, application
from sweep import launch
from sweep.config import load_study
from sweep.runs.interrupts import undisturbed_from_now_on


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code of the launch; of the summary where all went well until then."""
    command = application(launch.app)
    try:
        code = answer(command, "run", arguments)
    finally:
        undisturbed_from_now_on()
    if code not in (launch.OK, launch.FAILED) or "--help" in arguments:
        return code
    asked = command.make_context("calibsweep run", list(arguments)).params
    if asked["dry_run"]:
        return code
    told = answer(application(summary.main), "summary", [results_of(asked)])
    return code if code != OK else told


def results_of(asked: dict[str, Any]) -> str:
    """Where the launch put the results."""
    if asked["results"] is not None:
        return str(asked["results"])
    return f"results/{load_study(asked['study'], asked['set_'] or []).name}"
