"""Numbers of a sweep for Ray's dashboard, and for whatever reads the Prometheus endpoint of its nodes.

    ray_sweep_trials{state="done"}                     done, failed, running, recorded, waiting
    ray_sweep_workers{state="busy"}                    busy, idle, starting
    ray_sweep_phase_seconds_total{phase="compress"}    load, restore, compress, evaluate, write: summed over trials

Ray itself shows what each node's GPUs are at and hold. The driver tells these numbers, since it knows of all trials;
what is not measured here is what a worker logs. `metrics` is `ray.util.metrics`, or what stands for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweep.runs.hiring import Hiring
from sweep.runs.outcome import Outcome

PHASES = ("load", "restore", "compress", "evaluate", "write")


class Meters:
    """Keeps the gauges and counters of one driver."""

    def __init__(self, metrics: Any) -> None:
        self._trials = metrics.Gauge("sweep_trials", "Trials of this launch by state.", ("state",))
        self._workers = metrics.Gauge("sweep_workers", "Workers of this launch by state.", ("state",))
        self._seconds = metrics.Counter("sweep_phase_seconds", "Seconds of ended trials by phase.", ("phase",))
        self._ended = {"done": 0, "failed": 0}

    def show(self, hiring: Hiring, ended: Sequence[Outcome] = ()) -> None:
        """The crew as it is now, and the trials that have ended since the last time."""
        crew = hiring.crew
        for outcome in ended:
            self._ended["done" if outcome.status == "ok" else "failed"] += 1
            for phase in PHASES:
                if seconds := outcome.seconds.get(phase):
                    self._seconds.inc(seconds, {"phase": phase})
        waiting = len(crew.queue) + len(crew.awaiting)
        trials = {**self._ended, "running": len(crew.running), "recorded": len(crew.recorded), "waiting": waiting}
        workers = {"busy": len(crew.running), "idle": len(crew.free), "starting": len(hiring.starting)}
        for gauge, states in ((self._trials, trials), (self._workers, workers)):
            for state, count in states.items():
                gauge.set(count, {"state": state})
