from __future__ import annotations

import math

import pytest

from sweep.evaluation.questions.replay import Scores
from sweep.evaluation.suite import EvaluationData, task_rows
from tests.sweep.evaluation.metrics.conftest import DOCS, made_up, of

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn about themselves


def test_texts_of_a_model_whose_logits_are_nan_are_not_scored(data: EvaluationData) -> None:
    scores = made_up(data)
    broken = Scores(scores.loglikelihood, scores.greedy, [None] * len(scores.generations))
    found = of(data, "number").metrics(broken)
    assert set(found.values) == {("exact_match", "strict"), ("exact_match", "loose")}
    assert set(found.values.values()) == {None}
    assert "7 of 7 examples" in found.reasons["exact_match", "strict"]
    assert not of(data, "plain").metrics(broken).reasons


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_scores_that_are_no_numbers_make_no_accuracy(number: float, data: EvaluationData) -> None:
    scores, dense = made_up(data), made_up(data, 2)
    plain = of(data, "plain")
    scores.loglikelihood[plain.calls[4].start] = number  # example 1: the largest of NaNs is said to be choice 1
    before = {replay.name: replay.metrics(dense) for replay in data.tasks.tasks}
    found = {replay.name: replay.metrics(scores) for replay in data.tasks.tasks}
    metrics, samples = task_rows(found, before, data.tasks.groups)
    rows = {(row["task"], row["metric"]): row for row in metrics}
    reason = "the model's scores are NaN or infinite in 1 of 7 examples (first: example 1)"
    for metric in ("acc", "acc_norm", "flips_right_to_wrong", "flips_wrong_to_right", "margin_change"):
        assert rows["plain", metric]["value"] is None
        assert rows["plain", metric]["reason"] == reason
    assert rows["both", "acc"]["value"] is None
    assert rows["both", "acc"]["reason"] == f"plain: {reason}"
    broken = next(row for row in samples if row["task"] == "plain" and row["doc_id"] == 1)
    assert {key: value for key, value in broken.items() if value is not None} == {"task": "plain", "doc_id": 1}
    never = ("f1", "length")  # of three classes, of lists
    assert {row["task"] for row in metrics if row["reason"] and row["metric"] not in never} == {"plain", "both"}
    again = task_rows(before, found, data.tasks.groups)[0]  # and a dense model that is broken
    flips = next(row for row in again if row["metric"] == "flips_right_to_wrong" and row["task"] == "plain")
    assert flips["reason"] == f"the dense model: {reason}"


def test_an_impossible_answer_is_scored_as_lm_eval_scores_it(data: EvaluationData) -> None:
    scores = made_up(data)
    plain = of(data, "plain")
    right = [call.start for call in plain.calls if call.choice == DOCS[call.doc]["gold"]]
    scores.loglikelihood[right] = -math.inf
    found = plain.metrics(scores)
    assert found.values["acc", "none"] == 0
    assert not found.reasons
    assert {(outcome.correct, outcome.margin, outcome.loglikelihood) for outcome in found.outcomes} == {(0, None, None)}


def test_code_that_fails_for_an_example_costs_that_task_its_metrics(data: EvaluationData) -> None:
    scores = made_up(data)
    picky = of(data, "picky")
    scores.loglikelihood[[call.start for call in picky.calls if call.doc == 2]] = -1000
    found = picky.metrics(scores)
    assert found.values["acc", "none"] is None
    assert found.reasons["acc", "none"] == "example 2: ZeroDivisionError: no mass (1 of 7 examples)"
    assert [outcome.correct for outcome in found.outcomes] == [1, 1, None, 1, 1, 1, 1]
    rows, _ = task_rows({"picky": found}, {"picky": picky.metrics(made_up(data))}, [])
    assert all(row["value"] is None and "no mass" in row["reason"] for row in rows)
