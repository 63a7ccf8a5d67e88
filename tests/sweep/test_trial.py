"""One trial by itself: what it says of itself before it runs, and what it writes."""

from __future__ import annotations

from typing import Any

import pytest

from sweep import plan
from sweep.config import parse_study
from sweep.plan import Trial
from sweep.results import TABLES
from sweep.trial import Clock, describe, failed_rows, run_trial


@pytest.fixture
def trials(document: dict[str, Any]) -> list[Trial]:
    return plan.expand(parse_study(document))


def test_description_of_a_trial_has_only_known_columns(trials: list[Trial]) -> None:
    for trial in trials:
        assert set(describe(trial)) <= set(TABLES["trials"].names)


def test_failed_trial_keeps_its_factors_beside_its_error(trials: list[Trial]) -> None:
    rows = failed_rows(trials[2], "compress", "CompressionError: block 0: no")
    assert rows.trial == {
        **describe(trials[2]),
        "status": "failed",
        "phase": "compress",
        "error": "CompressionError: block 0: no",
    }
    assert not rows.metrics and not rows.samples and not rows.layers


def test_trial_runs_on_a_dense_model_alone_and_twice_gives_the_same_rows(trials: list[Trial], tmp_path: Any) -> None:
    from calib.build import build_sets
    from sweep.evaluation.suite import Evaluator
    from sweep.runs.prepare import make_requests
    from sweep.weights.streaming import load_dense

    trial = next(trial for trial in trials if trial.method_name == "gptq")
    dense = load_dense(trial.model, "cpu")
    evaluator = Evaluator(make_requests(trial, str(tmp_path)), dense.model, dense.tokenizer, "cpu")
    assert trial.spec is not None
    (calibration,) = build_sets([trial.spec], dense.tokenizer, trial.model.tokenizer_id)
    clock = Clock()
    first, second = (run_trial(trial, dense, evaluator, calibration, clock) for _ in range(2))
    assert set(first.trial) <= set(TABLES["trials"].names)
    assert first.trial["weights_hash"] == second.trial["weights_hash"]
    assert first.metrics == second.metrics
    assert [row["linear"] for row in first.layers] == [row["linear"] for row in second.layers]
    assert set(clock.seconds) == {"restore", "compress", "evaluate"}
