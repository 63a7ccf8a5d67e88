"""Requests of tokenizers without special tokens: whatever needs none is asked, the rest is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.settings import SettingsError
from sweep.evaluation.questions.requests import Tokenization, build_requests
from sweep.evaluation.settings import EvaluationSettings

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval, datasets and transformers warn about themselves


def test_tasks_and_texts_that_need_no_special_token_are_asked(task_path: Path, bare: Any, tokenizer: Any) -> None:
    settings = EvaluationSettings(tasks=["tiny_choice", "tiny_lambada"], task_path=str(task_path))
    found = build_requests(settings, bare, 96).requests
    expected = build_requests(settings, tokenizer, 96).requests  # a tokenizer that adds no BOS of its own
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.continuation, expected.continuation)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("tiny_pairs", r"task 'tiny_pairs' .*, example 0: nothing stands before the answer, which needs a BOS or EOS"),
        ("tiny_texts", r"task 'tiny_texts' .*, example 0: a whole text is scored, which needs a BOS or EOS"),
        ("tiny_numbers", r"task 'tiny_numbers' .*, example 0: an answer is generated until the EOS token"),
    ],
)
def test_a_request_that_needs_a_special_token_names_its_example(
    task_path: Path, bare: Any, task: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        build_requests(EvaluationSettings(tasks=[task], task_path=str(task_path)), bare, 96)


def test_pairs_without_a_prompt_say_what_is_missing(bare: Any) -> None:
    with pytest.raises(SettingsError, match="neither a BOS nor an EOS token"):
        Tokenization(bare).pairs([("", "the cat")])


def test_an_answer_longer_than_the_context_names_its_example(task_path: Path, tokenizer: Any) -> None:
    settings = EvaluationSettings(tasks=["tiny_choice"], task_path=str(task_path))
    with pytest.raises(SettingsError, match=r"'tiny_choice' .*, example \d+: an answer of \d+ tokens does not fit"):
        build_requests(settings, tokenizer, 2)
