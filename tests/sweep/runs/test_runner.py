"""Options of a run that do not go together, or that no machine has."""

from __future__ import annotations

from typing import Any

import pytest

from calib.settings import SettingsError
from sweep.runs.runner import RunOptions


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workers": 0}, "--workers 0: expected 1 to 10,000"),
        ({"workers": 10_001}, "--workers 10001: expected 1 to 10,000"),
        ({"gpus_per_worker": float("nan")}, "--gpus-per-worker nan: expected 0"),
        ({"gpus_per_worker": 0.001}, "--gpus-per-worker 0.001: expected 0"),
        ({"gpus_per_worker": 2.5}, r"--gpus-per-worker 2.5: a worker has a share of one GPU \(such as 0.5\) or whole"),
        ({"address": "-x"}, "--address '-x': expected auto"),
        ({"local": True, "workers": 2}, "--local: runs one worker in this process"),
        ({"local": True, "address": "auto"}, "--local: runs one worker in this process"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        RunOptions(**options)


@pytest.mark.parametrize("options", [{}, {"local": True, "workers": 1}, {"gpus_per_worker": 0}, {"address": "[::1]:1"}])
def test_options_that_can_be_are_taken(options: dict[str, Any]) -> None:
    assert RunOptions(**options) == RunOptions(**options)
