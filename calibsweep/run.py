"""`calibsweep run [STUDY]`: run what is missing of a study, then say on one screen what it found."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis import summary
from calibsweep.console import OK, answer, application, take_our_packages
from sweep import launch
from sweep.config import load_study
from sweep.shadows import PACKAGES


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code of the launch; of the summary where all went well until then."""
    prepare_workers()
    command = application(launch.app)
    code = answer(command, "run", arguments)
    if code not in (launch.OK, launch.FAILED) or "--help" in arguments:
        return code
    asked = command.make_context("calibsweep run", list(arguments)).params
    if asked["dry_run"]:
        return code
    told = answer(application(summary.main), "summary", [results_of(asked)])
    return code if code != OK else told


def prepare_workers() -> None:
    """Have Ray's workers load our packages first, where the working directory holds others of these names.

    With its first task a worker puts the driver's working directory before everything else on its path.
    """
    if any(Path(name).exists() for name in PACKAGES):
        hook = {"worker_process_setup_hook": f"{take_our_packages.__module__}.{take_our_packages.__name__}"}
        os.environ.setdefault("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": hook}))


def results_of(asked: dict[str, Any]) -> str:
    """Where the launch put the results."""
    if asked["results"] is not None:
        return str(asked["results"])
    return f"results/{load_study(asked['study'], asked['set_'] or []).name}"
