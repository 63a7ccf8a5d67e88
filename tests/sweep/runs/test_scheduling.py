"""A small cell of the simulated sweep: all trials end, near the lower bound, for a fraction of a millisecond each."""

from __future__ import annotations

import pytest

from benchmarks import scheduling
from sweep import plan
from sweep.runs.schedule import Job


@pytest.mark.parametrize("seed", range(3))
def test_sweep_on_workers_that_come_and_go_ends_near_its_lower_bound(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "LOSSES", 1 / 20_000)  # so that some are lost in so short a sweep
    found = scheduling.simulate(trials=2000, workers=40, seed=seed)
    assert found.ended == found.trials == 1995
    assert found.losses > 0
    assert found.bound < found.makespan < 1.06 * found.bound  # fifty trials a worker: one more is 2 %
    assert found.loads < 4 * found.workers


def test_bound_knows_that_a_trial_that_was_cut_off_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "LOSSES", 1e-12)
    trials = plan.expand(scheduling.make_study(12))
    (trial,) = [one for one in trials if (one.model.name, one.label) == ("reference-17m", "dense")]
    found = scheduling.Found(1)
    sweep = scheduling.Sweep([Job(trial, seconds=336)], workers=16, seed=0, found=found)
    (node, *_) = sweep.cluster.nodes
    sweep.cluster.later(300.0, "loss", node)
    sweep.run()
    assert found.losses == found.ended == 1
    assert 550 < found.bound < found.makespan
