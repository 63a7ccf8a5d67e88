"""The answer of a recommendation as `python -m analysis.pick` writes it: the trial to ship, and why.

The analysis stands above a sweep and is not asked from here; its answer comes as a file, or on standard input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.settings import SettingsError

HOW = "give the file that `python -m analysis.pick RESULTS --model MODEL --method METHOD` prints, or - for its output"


@dataclass(frozen=True)
class Best:
    """The trial that a recommendation leads to. why: its sentences, for the card."""

    trial: str
    why: str


def read_best(place: str) -> Best:
    """Read the answer from a file, or from standard input where `place` is `-`. Raises SettingsError."""
    try:
        text = sys.stdin.read() if place == "-" else Path(place).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--best {place}: cannot be read ({error}); {HOW}") from None
    try:
        found: Any = json.loads(text)
    except json.JSONDecodeError:
        raise SettingsError(f"--best {place}: is no answer of a recommendation; {HOW}") from None
    sentences = found.get("sentences") if isinstance(found, Mapping) else None
    trial = found.get("trial") if isinstance(found, Mapping) else None
    if not isinstance(trial, str) or not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
        raise SettingsError(f"--best {place}: is no answer of a recommendation; {HOW}")
    return Best(trial, " ".join(sentences))
