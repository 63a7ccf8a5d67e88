from __future__ import annotations

import math

import numpy as np
import pytest

from sweep.evaluation.metrics.choices import calibration_error, comparable, forecast
from sweep.evaluation.suite import EvaluationData
from tests.sweep.evaluation.metrics.conftest import DOCS, made_up, of

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn about themselves


def test_the_most_probable_choice_is_the_answer_that_counts(data: EvaluationData) -> None:
    for seed in range(5):
        scores = made_up(data, seed)
        for name in ("plain", "norm", "mutual", "several", "inputs"):
            for outcome in of(data, name).metrics(scores).outcomes:
                assert outcome.forecast is not None
                assert outcome.forecast.hit == (outcome.correct == 1), name
    for name in ("mass", "number", "votes", "last", "page"):
        assert {outcome.forecast for outcome in of(data, name).metrics(scores).outcomes} == {None}


def test_a_forecast_equals_the_plain_sums(data: EvaluationData) -> None:
    scores = made_up(data)
    replay = of(data, "norm")
    for outcome, doc in zip(replay.metrics(scores).outcomes, DOCS, strict=True):
        lls = [scores.loglikelihood[call.start] for call in replay.calls if call.doc == outcome.doc_id]
        weights = [math.exp(ll / len(choice)) for ll, choice in zip(lls, doc["c"], strict=True)]
        p = [weight / sum(weights) for weight in weights]
        found = outcome.forecast
        assert found is not None
        assert found.probability == pytest.approx(p[doc["gold"]])
        assert found.confidence == pytest.approx(max(p))
        assert found.brier == pytest.approx(sum((q - (n == doc["gold"])) ** 2 for n, q in enumerate(p)))


def test_brier_is_lm_evals_where_one_choice_is_right() -> None:
    from lm_eval.api.metrics import brier_score
    from lm_eval.utils import softmax

    lls = np.random.default_rng(0).normal(-5, 2, (20, 4))
    gold = np.arange(20) % 4
    ours = [forecast(row, [right]) for row, right in zip(lls, gold, strict=True)]
    theirs = brier_score([(int(right), softmax(row)) for row, right in zip(lls, gold, strict=True)])
    assert np.mean([found.brier for found in ours if found]) == pytest.approx(theirs)


def test_scores_are_those_that_the_accuracy_compares() -> None:
    lls, choices = [-2.0, -6.0, -1.0, -5.0], ["ab", "é"]
    assert comparable(lls, choices, "acc").tolist() == [-2, -6]
    assert comparable(lls, choices, None).tolist() == [-2, -6]
    assert comparable(lls, choices, "acc_norm").tolist() == [-1, -6]
    assert comparable(lls, choices, "acc_bytes").tolist() == [-1, -3]
    assert comparable(lls, choices, "acc_mutual_info").tolist() == [-1, -1]


def test_several_right_choices_are_one_event() -> None:
    found = forecast(np.log([0.2, 0.3, 0.5]), [0, 1])
    assert found is not None
    assert (found.probability, found.brier) == (pytest.approx(0.5), pytest.approx(0.25 + 0.25))
    assert not found.hit
    assert found.confidence == pytest.approx(0.5)


def test_impossible_choices_have_no_probability_and_all_of_them_no_forecast() -> None:
    found = forecast(np.array([-1.0, -np.inf]), [1])
    assert found is not None
    assert (found.probability, found.confidence, found.brier) == (0, 1, 2)
    assert forecast(np.array([-np.inf, -np.inf]), [0]) is None


def test_where_no_choice_is_wrong_nothing_is_forecast() -> None:
    assert forecast(np.array([-3.0]), [0]) is None
    assert forecast(np.array([-3.0, -4.0]), [0, 1]) is None


def test_calibration_error_equals_a_loop_over_bins() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.25, 1, 500)
    hit = rng.random(500) < confidence**2
    total = 0.0
    for number in range(10):
        inside = (confidence > number / 10) & (confidence <= (number + 1) / 10)
        if inside.any():
            total += inside.sum() * abs(hit[inside].mean() - confidence[inside].mean())
    assert calibration_error(confidence, hit) == pytest.approx(total / 500)
    assert calibration_error(np.array([1.0, 0.5]), np.array([True, False])) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="needs examples"):
        calibration_error(np.zeros(0), np.zeros(0, bool))
