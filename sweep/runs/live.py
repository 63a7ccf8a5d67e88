"""The table that stands under a sweep's lines in a terminal: counts, time left, cost, and what each worker is at."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Group
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweep.storage.status import Busy

MOST = 16  # workers that are shown
LOAD = "load"  # the phase in which a worker gets its model, which is no part of a trial's seconds


@dataclass(frozen=True)
class Price:
    """What GPUs cost: `gpu_hour` is the price of an hour of one, in any currency; None: it is not known."""

    gpu_hour: float | None = None

    def said(self, gpus: float, seconds: float) -> str:
        """`3.2 GPU hours, cost 6.40`, of so many GPUs for so long."""
        hours = gpus * seconds / 3600
        cost = "" if self.gpu_hour is None else f", cost {hours * self.gpu_hour:,.2f}"
        return gpu_time(hours * 3600) + cost


@dataclass
class Live:
    """What is known of the trials while they run. `running` is asked at each look."""

    total: int
    running: Callable[[], Sequence[Busy]] = tuple
    price: Price | None = None  # None: no GPU is used
    gpus: Callable[[], float] = lambda: 1.0  # that the workers hold
    workers: Callable[[], int] = lambda: 1
    expected: float = 0.0  # seconds of all trials on one worker, as far as known
    ended: float = 0.0  # of them, those of trials that ended
    spent: float = 0.0  # seconds that these took in truth, summed over workers
    began: float | None = None  # the clock when the first trial that ended began: workers load models before
    done: int = 0
    failed: int = 0
    since: float = field(default_factory=time.monotonic)

    def left(self, busy: Sequence[Busy] = ()) -> float | None:
        """Seconds until the end, None where nothing is expected. `busy`: what runs.

        As long as it took so far, for each expected second that ended. Until every worker has ended two trials that
        counts the workers' first trials too little, so what is left is shared among the workers, at the pace of the
        trials that ended, and before the first as expected.
        """
        if self.expected <= 0:
            return None
        count, rest = max(1, self.workers()), max(0.0, self.expected - self.ended)
        ends = self.done + self.failed
        if ends >= 2 * count and self.ended > 0:
            return (time.monotonic() - (self.began or self.since)) * rest / self.ended
        pace = self.spent / self.ended if self.ended > 0 else 1.0
        begun = sum(one.seconds for one in busy if one.phase != LOAD)
        work = max(0.0, pace * rest - begun)
        return work / max(1, min(count, self.total - ends))

    def head(self, busy: Sequence[Busy] = ()) -> str:
        """`12 of 152 done, 1 failed, about 3 min 20 s left, 24.0 GPU minutes, cost 0.80`."""
        left = self.left(busy)
        parts = [f"{self.done} of {self.total} done", f"{self.failed} failed"]
        parts += [f"about {duration(left)} left"] if left is not None else []
        if self.price:
            parts.append(self.price.said(self.gpus(), time.monotonic() - self.since))
        return ", ".join(parts)

    def __rich__(self) -> Group:
        busy = list(self.running())
        on_gpus = any(one.memory for one in busy)
        table = Table("worker", "trial", "phase", box=None, pad_edge=False)
        for title in ("seconds", *["GPU memory"] * on_gpus):
            table.add_column(title, justify="right")
        for one in busy[:MOST]:
            memory = f"{one.memory / 2**30:.1f} GiB" if one.memory else ""
            cells = escape(one.worker), escape(one.trial), one.phase, f"{one.seconds:.0f}", memory
            table.add_row(*cells[: len(table.columns)])
        if len(busy) > MOST:
            table.add_row(f"and {len(busy) - MOST} more")
        bar = Table.grid()  # which ends its line; a bar alone does not
        bar.add_row(ProgressBar(total=max(self.total, 1), completed=self.done + self.failed, width=60))
        return Group(self.head(busy), bar, *([table] if busy else []))


@dataclass
class Phase:
    """What is being done before the first trial, and since when."""

    heading: str = "preparing"
    detail: str = ""
    since: float = field(default_factory=time.monotonic)
    seen: set[str] = field(default_factory=set)  # headings so far

    def begin(self, heading: str, detail: str) -> bool:
        """Whether nothing was told of this heading before."""
        if heading != self.heading:
            self.since = time.monotonic()
        self.heading, self.detail = heading, detail
        new = heading not in self.seen
        self.seen.add(heading)
        return new

    def __rich__(self) -> Text:
        """`reading and tokenizing calibration text, 12 s: books for reference-5m, 3 sets`; names are not cut."""
        told = f": {self.detail}" if self.detail else ""
        seconds = duration(time.monotonic() - self.since)
        return Text(f"{self.heading}, {seconds}{told}", no_wrap=False, overflow="fold")


def gpu_time(seconds: float) -> str:
    """Seconds of GPUs, as `110.6 GPU hours`, or below an hour as `2.8 GPU minutes`."""
    return f"{seconds / 3600:,.1f} GPU hours" if seconds >= 3600 else f"{seconds / 60:.1f} GPU minutes"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `5 h 12 min`, `9 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
