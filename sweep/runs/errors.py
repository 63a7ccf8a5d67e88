"""Errors as a person reads them in a row or in a line of the terminal: one line each, with what failed and where."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
OURS = ("calib", "methods", "sweep")
LONGEST = 2000  # characters of an error in a row
FRAMES = 12  # of a stack in a row, the innermost first


def error_line(error: BaseException, part: str | None = None) -> str:
    """Type and message; for errors that are not ours also the part of the phase that failed, and the line of our code.

    `part` is such as "hash of the weights".
    """
    text = " ".join(str(error).split())
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(PROJECT))]
    where = [part] if part else []
    if frames:
        where.append(f"{Path(frames[-1].filename).relative_to(PROJECT)}:{frames[-1].lineno}")
    ours = type(error).__module__.startswith(OURS)
    place = f" ({', '.join(where)})" if where and not ours else ""
    return f"{type(error).__name__}: {text}{place}"[:LONGEST]


def short_line(error: BaseException) -> str:
    """Type and message alone, of an error that another process met."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:1500]}"


def last_line(error: BaseException) -> str:
    """Why a worker of Ray died: the last line of what Ray says, where the cause stands under its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if not line.startswith("The actor never ran")]
    return (causes or [type(error).__name__])[-1][:500]


def may_pass(error: BaseException) -> bool:
    """Whether the same may work later: what others use too (a GPU's memory, the network, a disk) was not to be had."""
    return isinstance(error, OSError | MemoryError) or "out of memory" in str(error).lower()


def stack(thread: int) -> str:
    """Where a thread is, the innermost call first, in one line."""
    frame = sys._current_frames().get(thread)
    calls = traceback.extract_stack(frame)[::-1][:FRAMES] if frame else []
    places = [f"{_short(call.filename)}:{call.lineno} {call.name}" for call in calls]
    return "in " + " < ".join(places)


def _short(path: str) -> str:
    file = Path(path)
    return str(file.relative_to(PROJECT)) if file.is_relative_to(PROJECT) else "/".join(file.parts[-2:])
