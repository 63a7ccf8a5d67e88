"""A worker as others call it from afar: a trial is answered twice, when it has left the device and when it is recorded.

Nothing here knows what makes the calls; `fetch` brings what a reference stands for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweep.plan import Trial
from sweep.runs.outcome import Outcome
from sweep.runs.worker import Worker
from sweep.weights.ahead import begin_reading

GROUP = "records"  # of calls that run beside the others: those to `recorded`
LEFT = "left the device"


class Actor(Worker):
    """A worker that fetches the requests itself, and only when its model changes."""

    def __init__(
        self,
        results: str,
        provenance: Mapping[str, Any],
        device: str,
        limits: Mapping[str, float],
        fetch: Callable[[Any], Any],
    ) -> None:
        super().__init__(results, provenance, device, limits)
        self.fetch = fetch

    def process(self) -> int:
        """The number of this process; the first call, answered when the worker is ready."""
        return os.getpid()

    def run_boxed(
        self, trial: Trial, calibration: Any, box: Sequence[Any], attempts: int, results: str, ahead: Any = None
    ) -> Outcome | str:
        """LEFT when the trial has left the device, and `recorded` tells its outcome; the outcome when it has failed.

        `box` holds the reference to the requests: one inside a list arrives as a reference, a plain argument would be
        fetched for every trial. `ahead` is what the worker will probably hold for its next trial, whose model is read
        meanwhile.
        """
        self.write_to(results)
        if ahead is not None and ahead[0] != trial.model:
            begin_reading(ahead[0])
        left = self.compute(trial, calibration, lambda: self.fetch(box[0]), attempts)
        if left.failed:
            return self.finish(left)
        self.recorder.beside(left)
        return LEFT

    def recorded(self, trial_id: str) -> Outcome:
        """The outcome of a trial that has left the device, when its row is there."""
        return self.recorder.outcome(trial_id)
