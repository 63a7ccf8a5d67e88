"""Levels: the values of one axis of a study. There is at least one, and none is there twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from calib.settings import SettingsError

MAX_TRIALS = 100_000  # of a study; the largest published one has 1,809, and these are planned in seconds


def check_levels(levels: Sequence[Any], path: str) -> None:
    if not levels:
        raise SettingsError(f"{path}: expected at least one value, got []")
    refuse_twice(path, [repr(level) for level in levels], "leave the repeated one out")


def refuse_twice(path: str, keys: Sequence[str], remedy: str) -> None:
    seen: set[str] = set()
    for number, key in enumerate(keys):
        if key in seen:
            raise SettingsError(f"{path}[{number}]: {_short(key)} is there twice; {remedy}")
        seen.add(key)


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:80]}..."
