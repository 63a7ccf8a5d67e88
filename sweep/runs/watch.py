"""A trial that hangs: each of its phases has a time that no honest one takes, and is ended with its stack in the row.

What hangs (a deadlock in a driver, a download, a kernel that waits for another) cannot be stopped from inside its
process, so the process ends: a thread writes the row first, and whoever started the process starts another. The hard
case is code that holds Python's lock while it hangs; then this thread does not run either, and only a person can help.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sweep.runs.errors import LONGEST, stack
from sweep.trial import Clock

HOUR = 3600.0
LIMITS: Mapping[str, float] = {  # seconds: some ten times what the largest models take on slow machines
    "load": 3 * HOUR,
    "restore": HOUR,
    "compress": 24 * HOUR,
    "evaluate": 24 * HOUR,
    "write": 4 * HOUR,  # a store that is away is waited for
}
LAST_WORDS = 300.0  # seconds for the row of a trial that hangs
HUNG = 70  # exit code of a process that ended itself


class WorkLog:
    """One JSON object a line: what a worker did and when. A disk that is full must not cost the trial."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def say(self, event: str, **what: Any) -> None:
        """Append a line; `what` are plain values."""
        if self.path is None:
            return
        line = {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "event": event, **what}
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")


class WatchedClock(Clock):
    """A trial's clock that other threads may look at, and that keeps a log."""

    def __init__(self, trial: str, name: str, log: WorkLog, memory: Callable[[], int | None] = lambda: None) -> None:
        super().__init__()
        self.trial = {"trial": trial, "name": name}
        self.log = log
        self.memory = memory
        self.began: float | None = None  # when the phase began that runs, by the monotonic clock
        self.thread = threading.get_ident()

    @contextmanager
    def __call__(self, phase: str, part: str | None = None) -> Iterator[None]:
        self.began = time.monotonic()
        self.log.say("begin", **self.trial, phase=phase, part=part, memory=self.memory())
        try:
            with super().__call__(phase, part):
                yield
        finally:
            seconds = round(time.monotonic() - self.began, 3)
            self.began = None
            self.log.say("end", **self.trial, phase=phase, part=part, seconds=seconds, memory=self.memory())

    def hangs(self, limits: Mapping[str, float]) -> str | None:
        """What to say of a phase that takes longer than its limit, with the stack of its thread."""
        began, phase = self.began, self.phase
        if began is None or phase is None or time.monotonic() - began < limits.get(phase, 24 * HOUR):
            return None
        return f"hangs: {phase} has not ended after {time.monotonic() - began:,.0f} s; {stack(self.thread)}"[:LONGEST]


class Watch:
    """Looks at the clock of a worker's trial now and then; calls `hung` with what to say, and ends the process."""

    def __init__(self, limits: Mapping[str, float], hung: Callable[[str], None]) -> None:
        self.limits = limits
        self.clock: WatchedClock | None = None
        self._hung = hung
        threading.Thread(target=self._look, name="watch", daemon=True).start()

    def _look(self) -> None:
        pause = min(30.0, min(self.limits.values()) / 4)
        while True:
            time.sleep(pause)
            clock = self.clock
            if clock is not None and (text := clock.hangs(self.limits)):
                threading.Timer(LAST_WORDS, os._exit, (HUNG,)).start()  # the store may hang as well
                try:
                    self._hung(text)
                finally:
                    os._exit(HUNG)
