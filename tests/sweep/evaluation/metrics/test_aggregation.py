from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.settings import SettingsError
from sweep.evaluation.metrics.aggregation import aggregate, is_mean
from sweep.evaluation.settings import EvaluationSettings
from sweep.evaluation.suite import EvaluationData
from tests.sweep.evaluation.metrics.conftest import CHOICE, DOCS, made_up, metrics, of, write

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn about themselves


def test_a_number_that_overflows_costs_only_itself(data: EvaluationData) -> None:
    scores = made_up(data)
    for call in of(data, "last").calls + of(data, "page").calls:
        scores.loglikelihood[call.start : call.stop] = -1e6
    last, page = of(data, "last").metrics(scores), of(data, "page").metrics(scores)
    assert last.values["perplexity", "none"] is None
    assert "OverflowError" in last.reasons["perplexity", "none"]
    assert last.values["acc", "none"] == np.mean([outcome.correct for outcome in last.outcomes])
    assert page.values["word_perplexity", "none"] is None
    assert page.counts["word_perplexity", "none"] == 7


def test_an_aggregation_that_fails_for_some_numbers_costs_that_metric(data: EvaluationData) -> None:
    scores = made_up(data)
    other = of(data, "own_other")
    right = [call.start for call in other.calls if call.choice == DOCS[call.doc]["gold"]]
    scores.loglikelihood[right] = -100  # no answer is right, and the code divides by their number
    found = other.metrics(scores)
    assert found.values == {("acc", "none"): None}
    assert "ZeroDivisionError" in found.reasons["acc", "none"]


def test_values_that_are_no_numbers_have_no_mean(data: EvaluationData) -> None:
    found = of(data, "em").metrics(made_up(data))
    assert found.values["length", "none"] is None
    assert "its aggregation fails: TypeError" in found.reasons["length", "none"]
    assert found.values["em", "none"] is not None


def test_resamples_are_lm_evals_and_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.api import metrics as of_lm_eval

    items = [0.5, 1.0, 4.0, 2.5, 3.0]
    monkeypatch.delenv("DISABLE_MULTIPROC", raising=False)
    theirs = of_lm_eval.bootstrap_stderr(of_lm_eval.median, items, 40)
    monkeypatch.setattr("multiprocessing.Pool", None)  # calling it is an error
    assert aggregate(of_lm_eval.median, items, 40) == (2.5, theirs, None)


def test_an_average_is_known_by_what_it_does() -> None:
    assert is_mean(lambda items: float(np.mean(items)))
    assert is_mean(lambda items: sum(items) / len(items))
    for other in (max, sum, np.median, len, lambda items: items, lambda items: {}["a"], lambda items: math.nan):
        assert not is_mean(other)


def test_unknown_aggregations_are_named(tmp_path: Path, tokenizer: Any) -> None:
    from sweep.evaluation.metrics.aggregation import check_aggregations
    from sweep.evaluation.questions.loading import load_tasks

    folder = write(tmp_path, {"mine": CHOICE + metrics("acc")})
    tasks, _ = load_tasks(EvaluationSettings(tasks=["mine"], task_path=str(folder)))
    task = tasks["mine"]
    check_aggregations("mine", task, "evaluation")
    task.config.metric_list[0]["aggregation"] = "meen"
    task._aggregation_list["acc"] = None  # what lm-eval makes of a name that it does not know
    with pytest.raises(
        SettingsError, match="task 'mine', metric 'acc': unknown aggregation 'meen', did you mean 'mean'"
    ):
        check_aggregations("mine", task, "evaluation")
