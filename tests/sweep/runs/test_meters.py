"""Numbers of a sweep, as they are given to what stands for `ray.util.metrics`."""

from __future__ import annotations

from typing import Any

import pytest

from sweep.plan import Trial
from sweep.runs.crew import Crew
from sweep.runs.hiring import Hiring
from sweep.runs.meters import Meters
from sweep.runs.outcome import Outcome
from sweep.runs.schedule import Job


class PaperMetrics:
    """Keeps what it is given, by name and tag."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], float] = {}

    def Gauge(self, name: str, _description: str, tag_keys: tuple[str, ...]) -> Any:  # as Ray names it  # noqa: N802
        return PaperMetric(self.found, name, *tag_keys)

    Counter = Gauge


class PaperMetric:
    def __init__(self, found: dict[tuple[str, str], float], name: str, tag: str) -> None:
        self.found, self.name, self.tag = found, name, tag

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.found[self.name, tags[self.tag]] = value

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0  # Ray refuses others
        self.set(self.found.get((self.name, tags[self.tag]), 0.0) + value, tags)


@pytest.fixture
def metrics() -> PaperMetrics:
    return PaperMetrics()


def test_trials_workers_and_seconds_are_told(metrics: PaperMetrics, many_trials: list[Trial]) -> None:
    hiring = Hiring(Crew())
    crew, meters = hiring.crew, Meters(metrics)
    crew.begin([Job(trial) for trial in many_trials], {many_trials[-1].calibration_id or ""})
    hiring.begin(2)
    for worker in ("first", "second", "third"):
        hiring.hired(worker)
    for worker in ("first", "second"):
        hiring.started(worker)
    assigned = crew.assign()
    assert assigned is not None
    seconds = {"compress": 2.0, "evaluate": 3.0, "write": 0.0}
    ok, failed = (Outcome(many_trials[0], status, 1, seconds) for status in ("ok", "failed"))
    meters.show(hiring, [ok, failed])
    meters.show(hiring, [ok])
    waiting = len(crew.queue) + len(crew.awaiting)
    assert {key: value for key, value in metrics.found.items() if key[0] == "sweep_trials"} == {
        ("sweep_trials", "done"): 2,
        ("sweep_trials", "failed"): 1,
        ("sweep_trials", "running"): 1,
        ("sweep_trials", "recorded"): 0,
        ("sweep_trials", "waiting"): waiting,
    }
    assert waiting == len(many_trials) - 1
    assert metrics.found["sweep_workers", "busy"] == metrics.found["sweep_workers", "idle"] == 1
    assert metrics.found["sweep_workers", "starting"] == 1
    assert metrics.found["sweep_phase_seconds", "compress"] == 6.0
    assert ("sweep_phase_seconds", "write") not in metrics.found
