from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sweep.evaluation.metrics.answers import WORTH, answer_rows
from sweep.evaluation.metrics.choices import calibration_error
from sweep.evaluation.suite import EvaluationData, task_rows
from tests.sweep.evaluation.metrics.conftest import made_up, of

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn about themselves


def test_rows_are_means_over_examples_and_their_differences_from_dense(data: EvaluationData) -> None:
    now, before = (of(data, "plain").metrics(made_up(data, seed)) for seed in (1, 2))
    rows = {row["metric"]: row for row in answer_rows(now, before)}
    assert {row["kind"] for row in rows.values()} == {"answers"}
    assert set(rows) == {name + end for name in (*WORTH, "ece") for end in ("", "_change")}
    for name, worth in WORTH.items():
        mine, theirs = (np.array([worth(outcome) for outcome in result.outcomes]) for result in (now, before))
        assert rows[name]["value"] == pytest.approx(mine.mean())
        assert rows[f"{name}_change"]["value"] == pytest.approx((mine - theirs).mean())
        error = (mine - theirs).std(ddof=1) / np.sqrt(len(mine))
        assert rows[f"{name}_change"]["stderr"] == pytest.approx(error)
        assert rows[name]["n"] == len(mine)
    errors = []
    for result in (now, before):
        forecasts = [outcome.forecast for outcome in result.outcomes if outcome.forecast]
        confidence = np.array([found.confidence for found in forecasts])
        errors.append(calibration_error(confidence, np.array([found.hit for found in forecasts])))
    assert rows["ece"]["value"] == pytest.approx(errors[0])
    assert rows["ece_change"]["value"] == pytest.approx(errors[0] - errors[1])


def test_a_last_word_has_a_loglikelihood_and_no_choices(data: EvaluationData) -> None:
    found = of(data, "last").metrics(made_up(data))
    assert [row["metric"] for row in answer_rows(found, found)] == ["loglikelihood", "loglikelihood_change"]


def test_samples_hold_what_the_rows_are_means_of(data: EvaluationData) -> None:
    found = of(data, "norm").metrics(made_up(data))
    rows, samples = task_rows({"norm": found}, {"norm": found}, [])
    values = {row["metric"]: row["value"] for row in rows}
    for column in ("loglikelihood", "margin", "probability", "brier"):
        assert np.mean([sample[column] for sample in samples]) == pytest.approx(values[column])
    assert len({row["metric"] for row in rows}) == len(rows)  # the key of metrics/
    assert {row["accuracy"] for row in rows} == {"acc_norm"}


def test_a_metric_of_the_tasks_own_keeps_its_name(data: EvaluationData) -> None:
    found = of(data, "plain").metrics(made_up(data))
    named = {row["metric"] for row in answer_rows(found, found, taken={"brier", "margin_change"})}
    assert named.isdisjoint({"brier", "margin_change"})
    assert {"brier_change", "margin", "probability"} <= named


def test_scores_that_are_no_numbers_give_reasons(data: EvaluationData) -> None:
    dense = of(data, "plain").metrics(made_up(data))
    scores = made_up(data)
    scores.loglikelihood[:] = np.nan
    rows = answer_rows(of(data, "plain").metrics(scores), dense)
    assert {row["value"] for row in rows} == {None}
    assert all("NaN or infinite" in row["reason"] for row in rows)
    broken = replace(dense, unscored="it is broken")
    rows = answer_rows(dense, broken)
    assert all((row["value"] is None) == row["metric"].endswith("_change") for row in rows)
    assert {row["reason"] for row in rows} == {None, "the dense model: it is broken"}
