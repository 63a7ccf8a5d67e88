from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from sweep.evaluation.questions.requests import Generation
from sweep.evaluation.scorer.forward import TokenBudget
from sweep.evaluation.scorer.generation import generate, may_be_padded
from tests.sweep.evaluation.scorer.architectures import CPU, build, drawn

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns about itself


def test_padding_token_without_an_embedding_is_never_fed(tokenizer: Any) -> None:
    model = build("llama, yarn")
    asked = [Generation(prompt, {"until": ["zzz"], "max_gen_toks": 5, "do_sample": False}) for prompt in ("a b", "a")]
    wanted = generate(model, tokenizer, asked, 120, TokenBudget(CPU))
    added = copy.deepcopy(tokenizer)
    added.add_special_tokens({"pad_token": "[PAD]"})
    assert added.pad_token_id >= model.config.vocab_size
    assert generate(model, added, asked, 120, TokenBudget(CPU)) == wanted


@pytest.mark.parametrize("name", ["phi3", "llama, dynamic", "xlnet", "llama4"])  # Llama 4 scales queries by place
def test_prompts_that_padding_moves_are_continued_as_each_alone(name: str, tokenizer: Any) -> None:
    model = build(name)
    fresh = copy.deepcopy(model)
    rng = np.random.default_rng(2)
    prompts = [tokenizer.decode(drawn(rng, count)) for count in (4, 30, 36, 36, 50, 70)]
    asked = [Generation(prompt, {"until": ["\n\n\n"], "max_gen_toks": 10, "do_sample": False}) for prompt in prompts]
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    assert not may_be_padded(model, lengths, [10] * len(lengths))
    together = generate(model, tokenizer, asked, 120, TokenBudget(CPU))
    assert together == [generate(copy.deepcopy(fresh), tokenizer, [each], 120, TokenBudget(CPU))[0] for each in asked]


@pytest.mark.parametrize("name", ["llama, yarn", "mistral", "gpt_neo"])
def test_prompts_that_padding_leaves_alone_share_batches(name: str) -> None:
    model = build(name)
    assert may_be_padded(model, [4, 30, 70], [10, 10, 10])
    assert may_be_padded(model, [30, 30], [10, 10])
