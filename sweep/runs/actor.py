"""A worker as others call it from afar: a trial is answered twice, when it has left the device and when it is recorded.

Nothing here knows what makes the calls; `fetch` gives what a reference stands for, and `bring` (Ray's `wait`) has what
several stand for brought to this machine. What the next trial needs comes while the present one is at work.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from sweep.models import ModelRef
from sweep.plan import Trial
from sweep.runs.hands import Small, fetched
from sweep.runs.machine import process_began
from sweep.runs.outcome import Outcome
from sweep.runs.record import Beside
from sweep.runs.worker import Worker
from sweep.weights.ahead import begin_reading

IMPORTS = (  # of what loads a model and makes metrics
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "lm_eval.api.task",
)
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
        bring: Callable[..., object],
    ) -> None:
        here = datetime.now(timezone.utc)
        super().__init__(results, provenance, device, limits)
        self.fetch, self.bring = fetch, bring
        import_ahead()
        self._say_since(process_began() or here, here)

    def _say_since(self, began: datetime, here: datetime) -> None:
        """Into the log: when this process began, and when what a worker needs of it was imported."""
        log, now = Beside(self.log.path), datetime.now(timezone.utc)
        for part, first, last in (("process", began, here), ("torch and transformers", here, now)):
            for event, time in (("begin", first), ("end", last)):
                log.say(event, trial="", phase="start", part=part, time=time.isoformat(timespec="milliseconds"))

    def process(self) -> int:
        """The number of this process; the first call, answered when the worker is ready. Nothing is on its GPU yet."""
        return os.getpid()

    def run_boxed(
        self,
        trial: Trial,
        calibration: Any,
        box: Sequence[Any],
        attempts: int,
        results: str,
        ahead: tuple[ModelRef, Sequence[Any]] | None = None,
    ) -> Outcome | str:
        """LEFT when the trial has left the device, and `recorded` tells its outcome; the outcome when it has failed.

        `box` holds the reference to the requests: one inside a list arrives as a reference, a plain argument would be
        fetched for every trial. `ahead` are the model that the worker will probably hold for its next trial, and what
        that trial needs. What is `Small` arrives as it is.
        """
        self.write_to(results)
        if ahead is not None:
            model, needed = ahead
            if model != trial.model:
                begin_reading(model)
            threading.Thread(target=self._bring, args=(needed,), name="bring", daemon=True).start()
        given = fetched(calibration, _same)  # what stands behind a reference has come with the call
        left = self.compute(trial, given, lambda: fetched(box[0], self.fetch), attempts)
        if left.failed:
            return self.finish(left)
        self.recorder.beside(left)
        return LEFT

    def _bring(self, needed: Sequence[Any]) -> None:
        with suppress(Exception):  # it is met again, and told, by the trial
            far = [one for one in needed if not isinstance(one, Small)]
            self.bring(far, num_returns=len(far))

    def recorded(self, trial_id: str) -> Outcome:
        """The outcome of a trial that has left the device, when its row is there."""
        return self.recorder.outcome(trial_id)


def import_ahead() -> None:
    """What takes seconds to import; the first trial meets again, and tells, what is wrong."""
    with suppress(Exception):
        for name in IMPORTS:
            importlib.import_module(name)


def _same(found: Any) -> Any:
    return found
