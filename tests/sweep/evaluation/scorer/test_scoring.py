"""A request's scores are those of the request alone, in every architecture and on both sides of every switch.

The reference is transformers on a model that was never called before, with one sequence and nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from sweep.evaluation.questions.heldout import HeldOut
from sweep.evaluation.questions.requests import Requests
from sweep.evaluation.scorer.attention import ExplicitMask
from sweep.evaluation.scorer.choice import choose_scorer
from sweep.evaluation.scorer.forward import TokenBudget, head_rule
from sweep.evaluation.scorer.scoring import PackedScorer, PlainScorer, any_lengths
from sweep.evaluation.suite import EvaluationData, Evaluator
from sweep.evaluation.windows import WindowScorer
from tests.sweep.evaluation.scorer.architectures import (
    CPU,
    EQUAL,
    LONGEST,
    PACKED,
    PLAIN,
    TURN,
    build,
    drawn,
    logits_alone,
    scores_alone,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns about itself


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small wait longer for a second thread than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def requests() -> Requests:
    """Inputs on both sides of the switch and right at it, which share contexts across it."""
    rng = np.random.default_rng(0)
    context = drawn(rng, TURN - 3)
    pairs = [(drawn(rng, length), drawn(rng, 4)) for length in (5, 20, LONGEST)]
    pairs += [(context, drawn(rng, count)) for count in (3, 4, 5, 30)]  # inputs of TURN - 1, TURN and TURN + 1 tokens
    pairs += [(context[:12], drawn(rng, 3))]
    return Requests.pack(pairs, LONGEST)


def check_scores(name: str, requests: Requests) -> str:
    """The scorer's name."""
    model = build(name)
    fresh = copy.deepcopy(model)
    scorer = choose_scorer(model, requests, TokenBudget(CPU), head_rule(model))
    wanted = scores_alone(fresh, requests)
    np.testing.assert_allclose(scorer.score(model)[0], wanted, atol=2e-4, rtol=0)
    longest = int(np.diff(requests.offsets).argmax())
    after = Requests.pack([([*requests.sequence(longest)[:-1]], [3])], LONGEST)
    np.testing.assert_array_equal(scores_alone(model, after), scores_alone(fresh, after))
    return scorer.name


@pytest.mark.parametrize("name", PACKED)
def test_packed_scores_are_those_of_each_request_alone(name: str, requests: Requests) -> None:
    assert check_scores(name, requests) == "packed, explicit mask"


@pytest.mark.parametrize("name", PLAIN)
def test_plain_scores_are_those_of_each_request_alone(name: str, requests: Requests) -> None:
    assert check_scores(name, requests) == "plain"


@pytest.mark.parametrize("name", EQUAL)
def test_sequences_that_padding_moves_share_a_batch_with_equal_lengths_alone(name: str, requests: Requests) -> None:
    assert check_scores(name, requests) == "plain, equal lengths"


@pytest.mark.parametrize("name", ["phi3", "llama, dynamic"])
def test_a_scorer_that_was_not_chosen_keeps_lengths_apart_as_well(name: str, requests: Requests) -> None:
    model = build(name)
    rule, wanted = head_rule(model), scores_alone(copy.deepcopy(model), requests)
    assert rule is not None
    for scorer in (
        PlainScorer(requests, TokenBudget(CPU), rule),
        PackedScorer(requests, TokenBudget(CPU), rule, ExplicitMask()),
    ):
        np.testing.assert_allclose(scorer.score(model)[0], wanted, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["phi3", "llama, dynamic"])
def test_neighbours_move_scores_where_nothing_keeps_them_apart(name: str, requests: Requests) -> None:
    """What the tests above would see."""
    model = build(name)
    wanted = scores_alone(copy.deepcopy(model), requests)
    found, _ = PlainScorer(requests, TokenBudget(CPU), head_rule(model), any_lengths()).score(model)
    assert np.abs(found - wanted).max() > 0.1


@pytest.mark.parametrize("name", ["phi3", "llama, dynamic"])
def test_held_out_windows_are_scored_as_each_alone(name: str) -> None:
    model = build(name)
    fresh = copy.deepcopy(model)
    rng = np.random.default_rng(1)
    texts = [
        HeldOut(label, np.asarray([drawn(rng, length) for _ in range(3)], np.int32))
        for label, length in (("long", LONGEST), ("at the switch", TURN), ("beyond", TURN + 1))
    ]
    windows = WindowScorer(texts, model, TokenBudget(CPU), head_rule(model), divergence=True)
    for scores in (windows.score(model), windows.score_dense(model)):
        for text, found in zip(texts, scores, strict=True):
            for window, nll in zip(text.tokens, found.nll, strict=True):
                target = torch.as_tensor(window[1:].astype(np.int64))[:, None]
                wanted = -logits_alone(fresh, window).log_softmax(-1)[:-1].gather(1, target)[:, 0]
                np.testing.assert_allclose(nll, wanted, atol=1e-3, rtol=0)


class Mixing(torch.nn.Module):
    """Adds the mean of all rows of a call to each."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(hidden)
        return found + found.mean((0, 1))


def test_rows_that_meet_each_other_run_one_by_one(
    make_model: Callable[..., Any], requests: Requests, tokenizer: Any
) -> None:
    model = make_model("llama")
    model.model.layers[0].mlp = Mixing(model.model.layers[0].mlp)
    requests = Requests.pack([(requests.sequence(number)[:30].tolist(), [7]) for number in (2, 3)], LONGEST)
    scorer = choose_scorer(model, requests, TokenBudget(CPU), head_rule(model))
    assert scorer.name == "plain, one by one"
    np.testing.assert_allclose(scorer.score(model)[0], scores_alone(model, requests), atol=1e-4, rtol=0)
    data = evaluation_of(
        requests, HeldOut("text", np.asarray([drawn(np.random.default_rng(number), 20) for number in (1, 2)]))
    )
    evaluator = Evaluator(data, model, tokenizer, "cpu")
    for window, nll in zip(data.heldout[0].tokens, evaluator.windows.score(model)[0].nll, strict=True):
        target = torch.as_tensor(window[1:])[:, None]
        wanted = -logits_alone(model, window).log_softmax(-1)[:-1].gather(1, target)[:, 0]
        np.testing.assert_allclose(nll, wanted, atol=1e-3, rtol=0)


def evaluation_of(requests: Requests, text: HeldOut) -> EvaluationData:
    from sweep.evaluation.questions.requests import TaskRequests
    from sweep.evaluation.settings import EvaluationSettings

    return EvaluationData(EvaluationSettings(tasks=["tiny"]), LONGEST, TaskRequests(requests, [], [], []), [text])
