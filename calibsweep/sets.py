"""`calibsweep calib`: the commands of `calib`, which knows the bundled models by name here."""

from __future__ import annotations

from collections.abc import Sequence

from calib import __main__ as sets
from sweep.models import MODELS, bundled_models


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    return sets.main(arguments, {name: MODELS / name for name in bundled_models()}, "calibsweep calib")
