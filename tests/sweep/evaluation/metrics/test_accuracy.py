"""What is said of an example is what lm-eval says of it, and each number fails alone."""

from __future__ import annotations

import numpy as np
import pytest

from sweep.evaluation.suite import EvaluationData, task_rows
from tests.sweep.evaluation.metrics.conftest import ACCURACY, TASKS, made_up, name_of, of

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn about themselves


@pytest.mark.parametrize("name", ACCURACY)
def test_outcomes_of_the_examples_average_to_the_accuracy(name: str, data: EvaluationData) -> None:
    for seed in range(3):
        found = of(data, name).metrics(made_up(data, seed))
        assert found.accuracy == ACCURACY[name]
        outcomes = [outcome.correct for outcome in found.outcomes if outcome.correct is not None]
        assert len(outcomes) == found.counts[found.accuracy]
        assert np.mean(outcomes) == pytest.approx(found.values[found.accuracy], abs=1e-15)
        metrics, samples = task_rows({name: found}, {name: found}, [])
        written = [row["score"] for row in samples]
        assert written == [outcome.correct for outcome in found.outcomes]
        assert [row["correct"] for row in samples] == [{1.0: True, 0.0: False}.get(value) for value in written]
        label = name_of(ACCURACY[name])
        assert {row["accuracy"] for row in metrics} == {label}
        assert next(row for row in metrics if row["metric"] == label)["value"] == found.values[found.accuracy]


@pytest.mark.parametrize("name", sorted(set(TASKS) - set(ACCURACY)))
def test_a_task_whose_examples_do_not_average_has_no_accuracy(name: str, data: EvaluationData) -> None:
    found = of(data, name).metrics(made_up(data))
    assert found.accuracy is None
    assert all(outcome.correct is None for outcome in found.outcomes)
    metrics, _ = task_rows({name: found}, {name: found}, [])
    assert {row["accuracy"] for row in metrics} == {""}
    assert not [row for row in metrics if row["metric"].startswith("flips")]
