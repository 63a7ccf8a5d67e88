"""How much longer one trial is than another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sweep import plan
from sweep.adviser.effort import operations
from sweep.config import parse_study


def test_size_of_a_model_that_is_not_here_yet_changes_no_ratio(document: dict[str, Any]) -> None:
    known = plan.expand(parse_study(document))[::2]
    unknown = [replace(trial, model=replace(trial.model, parameters=None)) for trial in known]
    ratio = operations(known[1]) / operations(known[0])
    assert ratio > 0
    assert operations(unknown[1]) / operations(unknown[0]) == pytest.approx(ratio)
    assert operations(unknown[0], known[0].model.parameters) == operations(known[0])
