from __future__ import annotations

import numpy as np
import pytest

from sweep.evaluation.questions.replay import Scores
from sweep.evaluation.suite import EvaluationData, task_rows
from tests.sweep.evaluation.metrics.conftest import DOCS, made_up, of

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn about themselves


def test_shares_are_numbers_and_never_flip(data: EvaluationData) -> None:
    rng = np.random.default_rng(0)
    replay = of(data, "mass")
    scores = [Scores(-rng.uniform(1, 9, len(data.tasks.requests)), made_up(data).greedy) for _ in range(2)]
    now, before = (replay.metrics(score) for score in scores)
    assert all(0 < outcome.correct < 1 for outcome in now.outcomes)
    rows, samples = task_rows({"mass": now}, {"mass": before}, [])
    assert {row["correct"] for row in samples} == {None}
    assert [row["metric"] for row in rows] == ["acc"]


def test_margins_are_about_the_answers_that_lm_eval_scores(data: EvaluationData) -> None:
    scores = made_up(data)
    for name, pick in (("plain", "gold"), ("mutual", "gold"), ("inputs", "gold"), ("several", "golds")):
        replay = of(data, name)
        for outcome, doc in zip(replay.metrics(scores).outcomes, DOCS, strict=True):
            lls = [scores.loglikelihood[call.start] for call in replay.calls if call.doc == outcome.doc_id]
            assert len(lls) == (6 if name == "mutual" else 3)
            right = doc[pick] if isinstance(doc[pick], list) else [doc[pick]]
            wrong = [ll for number, ll in enumerate(lls[:3]) if number not in right]
            assert outcome.loglikelihood == max(lls[number] for number in right)
            assert outcome.margin == pytest.approx(outcome.loglikelihood - max(wrong))
    for name in ("mass", "number", "votes"):  # which answers are right is the code's own secret, or nothing is chosen
        assert {outcome.margin for outcome in of(data, name).metrics(scores).outcomes} == {None}
    last = of(data, "last").metrics(scores).outcomes
    assert all(outcome.loglikelihood is not None and outcome.margin is None for outcome in last)
