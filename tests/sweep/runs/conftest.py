"""Trials that workers of paper run."""

from __future__ import annotations

from typing import Any

import pytest

from sweep import plan
from sweep.config import parse_study
from sweep.plan import Trial


@pytest.fixture
def many_trials(document: dict[str, Any]) -> list[Trial]:
    """Of one model."""
    document["calibration"]["sets"] = 10
    return plan.expand(parse_study(document))


@pytest.fixture
def two_models(document: dict[str, Any], other_model: Any) -> list[Trial]:
    document["models"].append(str(other_model))
    document["calibration"]["sets"] = 3
    return plan.expand(parse_study(document))
