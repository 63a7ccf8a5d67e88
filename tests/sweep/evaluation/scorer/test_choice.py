"""Which scorer a model takes: ways are tried in order, and what is no fault of the model is not held against it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sweep.evaluation.questions.requests import Requests
from sweep.evaluation.scorer import choice, reach
from sweep.evaluation.scorer.attention import ExplicitMask
from sweep.evaluation.scorer.choice import choose_scorer
from sweep.evaluation.scorer.forward import TokenBudget, head_rule
from sweep.evaluation.scorer.scoring import PackedScorer, Scorer

REQUESTS = Requests.pack([([5, 6, 7], [8, 9]), ([5, 6, 7], [9])], 96)

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns about itself


class Failing(ExplicitMask):
    name = "failing"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def mask(self, *_: Any) -> torch.Tensor:
        raise self.error


class Causal(ExplicitMask):
    """Lets siblings see each other."""

    name = "causal"

    def mask(self, ends: torch.Tensor, *rest: Any) -> torch.Tensor:
        return super().mask(torch.full_like(ends, ends.shape[1]), *rest)


class ByPlace(ExplicitMask):
    """Counts a window in places of the row, so branches push their context out of it."""

    name = "by place"

    def mask(self, ends: torch.Tensor, positions: torch.Tensor, *rest: Any) -> torch.Tensor:
        return super().mask(ends, torch.arange(ends.shape[1]).expand_as(positions), *rest)


def choose(model: Any) -> Scorer:
    return choose_scorer(model, REQUESTS, TokenBudget(torch.device("cpu")), head_rule(model))


def test_ways_are_tried_in_order(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ways = [Failing(RuntimeError("no such kernel")), Causal(), ExplicitMask(), Failing(RuntimeError("never tried"))]
    monkeypatch.setattr(choice, "ways", lambda _: ways)
    with caplog.at_level(logging.WARNING):
        scorer = choose(make_model("llama"))
    assert isinstance(scorer, PackedScorer)
    assert scorer.attention is ways[2]
    assert scorer.name == "packed, explicit mask"
    assert "no failing (RuntimeError: no such kernel)" in caplog.text
    assert "differ by" in caplog.text
    assert "never tried" not in caplog.text


def test_without_any_way_sequences_are_scored_one_by_one(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choice, "ways", lambda _: [Causal()])
    with caplog.at_level(logging.WARNING):
        assert choose(make_model("llama")).name == "plain"
    assert "LlamaForCausalLM is scored plain: packed (causal) and single sequences differ" in caplog.text


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), torch.AcceleratorError("illegal access")])
def test_a_full_or_broken_device_is_not_held_against_the_model(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(choice, "ways", lambda _: [Failing(error), ExplicitMask()])
    with pytest.raises(type(error)):
        choose(make_model("llama"))


def test_memory_that_runs_out_while_modules_are_tried_is_not_held_against_them(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr("sweep.evaluation.scorer.placewise.narrow", lambda *_: full)
    with pytest.raises(torch.OutOfMemoryError):
        choose(make_model("llama"))


def test_a_window_is_tried_with_sequences_that_reach_beyond_it(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "ways", lambda _: [ByPlace()])
    assert choose(make_model("mistral", sliding_window=40)).name == "plain"
    assert choose(make_model("mistral", sliding_window=None)).name == "packed, by place"  # nothing to count


def test_what_is_too_long_to_try_is_not_trusted(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    requests = Requests.pack([([5] * 80, [8, 9]), ([5, 6, 7], [9])], 96)
    model = make_model("mistral", sliding_window=60)

    def name() -> str:
        return choose_scorer(model, requests, TokenBudget(torch.device("cpu")), head_rule(model)).name

    assert name() == "packed, explicit mask"
    monkeypatch.setattr(reach, "LONGEST", 59)
    with caplog.at_level(logging.WARNING):
        assert name() == "plain, equal lengths"
    assert "what it does beyond 60 tokens is too long to try" in caplog.text


def test_windows_that_a_model_counts_itself_are_not_packed(make_model: Callable[..., Any]) -> None:
    assert choose(make_model("gpt_neo")).name == "plain"
