"""What a person sees while a sweep runs, and the account of time at its end.

In a terminal a table of what runs stands under the finished trials; elsewhere (a log, CI) each finished trial is one
plain line.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.live import Live as LiveDisplay
from rich.markup import escape
from rich.table import Table

from sweep.runs.live import Live, Phase, Price, duration
from sweep.runs.outcome import Outcome

__all__ = ["Account", "Live", "OwnConsole", "Price", "Reporter", "Silence", "duration", "overhead"]

LOOKS_A_SECOND = 2  # at the workers' logs


class OwnConsole(Console):
    """Says no more when nobody reads (`... | head`), and lets what runs go on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # Python flushes it when it ends
        os.close(nowhere)


class Reporter:
    """Prints to `console`: a live table in a terminal, plain lines otherwise."""

    def __init__(self, console: Console | None = None, price: Price | None = None) -> None:
        self.console = console or OwnConsole(file=sys.stdout, highlight=False, soft_wrap=True)
        self.price = price or Price()
        self._live = Live(0)
        self._phase = Phase()

    def say(self, text: str) -> None:
        """One line, above the table when there is one; a terminal that is narrower breaks it between words."""
        self.console.print(escape(text), soft_wrap=not self.console.is_terminal)

    def phase(self, heading: str, detail: str = "") -> None:
        """What is being done before the first trial: a line under all others in a terminal, or one for each heading."""
        if self._phase.begin(heading, detail) and not self.console.is_terminal:
            self.say(f"{heading} ({detail})" if detail else heading)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Before the first trial: shows the phase in a terminal, and for how long."""
        self._phase = Phase()
        with self._under_the_lines(self._phase.__rich__):
            yield

    @contextmanager
    def trials(self, live: Live) -> Iterator[None]:
        """While trials run: shows the table in a terminal."""
        self._live = live
        with self._under_the_lines(live.__rich__):
            yield

    @contextmanager
    def _under_the_lines(self, get_renderable: Callable[[], RenderableType]) -> Iterator[None]:
        if not self.console.is_terminal:
            yield
            return
        shown = LiveDisplay(
            get_renderable=get_renderable,
            console=self.console,
            transient=True,
            refresh_per_second=LOOKS_A_SECOND,
            redirect_stdout=False,
        )
        with shown:
            yield

    def finished(self, outcome: Outcome, expected: float = 0.0) -> None:
        """One line for a finished trial: its number, name, headline figure and seconds, or why it failed."""
        live = self._live
        live.done += outcome.status == "ok"
        live.failed += outcome.status != "ok"
        live.ended += expected
        live.spent += _seconds(outcome)
        live.began = live.began or time.monotonic() - _seconds(outcome)
        head = f"[{live.done + live.failed}/{live.total}] {outcome.trial}"
        if outcome.status == "ok":
            self._say_in_two(head, f"{outcome.headline} · {_seconds(outcome):.1f} s")
        else:
            self.say(f"{head} · FAILED in {outcome.phase}: {outcome.error}")

    def _say_in_two(self, name: str, told: str) -> None:
        """On one line; in a terminal that is narrower, the second part under the name."""
        line = f"{name} · {told}"
        narrow = self.console.is_terminal and cell_len(line) > self.console.width
        self.say(f"{name}\n{' ' * (name.index(']') + 2)}{told}" if narrow else line)


class Silence:
    """How long no trial has ended, and when to say so: after `minutes`, and again after as many."""

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self._since = time.monotonic()

    def broken(self, ended: Sequence[object]) -> None:
        """These trials have ended, or none."""
        if ended:
            self._since = time.monotonic()

    def line(self, running: str) -> str | None:
        """What to say now; `running` names the trials that run."""
        minutes = (time.monotonic() - self._since) / 60
        if minutes < self.minutes:
            return None
        self._since = time.monotonic()
        return (
            f"nothing finished for {minutes:.0f} minutes; running: {running}. If no worker is busy, `ray status` shows "
            "which resources are missing"
        )


@dataclass
class Account:
    """Where the wall time of a sweep goes. The driver's phases add up to the whole; `workers` splits the trials."""

    phases: dict[str, float] = field(default_factory=dict)  # of the driver: planning, ray start, sets, trials
    workers: dict[str, float] = field(default_factory=dict)  # summed over trials: load, compress, tasks, ...
    done: int = 0
    failed: int = 0
    price: Price | None = None  # of the GPUs that the trials run on

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.phases[phase] = self.phases.get(phase, 0.0) + time.perf_counter() - started

    def add(self, outcome: Outcome) -> None:
        """Count a finished trial and its seconds."""
        self.done += outcome.status == "ok"
        self.failed += outcome.status != "ok"
        evaluate = outcome.seconds.get("evaluate", 0.0)
        known = outcome.seconds.get("tasks", 0.0) + outcome.seconds.get("windows", 0.0)
        parts = {**outcome.seconds, "evaluate": max(0.0, evaluate - known)}
        for phase, seconds in parts.items():
            self.workers[phase] = self.workers.get(phase, 0.0) + seconds

    def table(self, workers: int) -> Table:
        """Wall seconds and shares; seconds of workers are divided by their number."""
        wall = sum(self.phases.values()) or 1e-9
        lines = self.lines(workers)
        table = Table("where the time goes", box=None, pad_edge=False)
        for title in ("seconds", "share"):
            table.add_column(title, justify="right")
        for name, seconds in lines.items():
            table.add_row(name, f"{seconds:.1f}", f"{seconds / wall:.0%}")
        table.add_row("total", f"{wall:.1f}", "")
        table.add_row(
            "of it overhead (planning, starting up, writing, waiting)",
            f"{overhead(lines):.1f}",
            f"{overhead(lines) / wall:.0%}",
        )
        return table

    def lines(self, workers: int) -> dict[str, float]:
        """Wall seconds by what they were spent on; they add up to the whole."""
        each = {name: seconds / max(workers, 1) for name, seconds in self.workers.items()}
        trials = self.phases.get("trials", 0.0)
        return {
            "planning": self.phases.get("planning", 0.0),
            "starting up": self.phases.get("starting up", 0.0),
            "calibration sets and requests": self.phases.get("calibration sets and requests", 0.0),
            "loading models": each.get("load", 0.0),
            "restoring": each.get("restore", 0.0),
            "compress": each.get("compress", 0.0),
            "tasks": each.get("tasks", 0.0),
            "held-out windows": each.get("windows", 0.0),
            "hashes of weights": each.get("evaluate", 0.0),
            "writing": each.get("write", 0.0),
            "packing files": self.phases.get("packing files", 0.0),
            "starting workers and waiting": max(0.0, trials - sum(each.values())),
        }


def overhead(lines: Mapping[str, float]) -> float:
    """Seconds that are neither calibration, model loading, compression nor evaluation."""
    names = ("planning", "starting up", "writing", "packing files", "starting workers and waiting")
    return sum(lines.get(name, 0.0) for name in names)


def _seconds(outcome: Outcome) -> float:
    return sum(outcome.seconds.get(phase, 0.0) for phase in ("restore", "compress", "evaluate", "write"))
