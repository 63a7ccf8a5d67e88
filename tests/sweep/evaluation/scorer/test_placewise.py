"""The last block works where something is predicted, and scores stay what they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from methods.blockwise import decoder_blocks
from methods.walk.fused import fused
from sweep.evaluation.questions.requests import Requests
from sweep.evaluation.scorer.choice import choose_scorer
from sweep.evaluation.scorer.forward import TokenBudget, head_rule
from sweep.evaluation.scorer.placewise import Reading, only_where_read
from sweep.evaluation.scorer.scoring import Scorer

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns about itself

LLAMA_LIKE = {"mlp", "self_attn.q_proj", "self_attn.o_proj"}
EXPECTED = {
    "llama": LLAMA_LIKE,
    "gemma2": LLAMA_LIKE,  # normalizes what the MLP gives
    "olmo2": LLAMA_LIKE,
    "mixtral": LLAMA_LIKE,
    "cohere": LLAMA_LIKE,  # runs MLP and attention side by side, as GPT-NeoX and Falcon do
    "gpt_neox": {"mlp", "attention.dense"},
    "falcon": {"mlp", "self_attention.dense"},
    "gpt2": {"mlp", "attn.c_proj"},
    "opt": {"fc1", "fc2", "self_attn.q_proj", "self_attn.out_proj"},
    "bloom": {"mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "self_attention.dense"},  # its MLP is given two tensors
    "mamba": {"mixer.out_proj"},  # its mixer mixes places
}


@pytest.fixture
def requests() -> Requests:
    rng = np.random.default_rng(1)

    def draw(count: int) -> list[int]:
        return [int(token) for token in rng.integers(3, 400, count)]

    contexts = [draw(count) for count in (40, 20, 1)]
    return Requests.pack([(context, draw(count)) for context in contexts for count in (1, 4, 3)], 96)


def scorer_of(model: Any, requests: Requests) -> Scorer:
    return choose_scorer(model, requests, TokenBudget(torch.device("cpu")), head_rule(model))


def scored_everywhere(scorer: Scorer, model: Any) -> np.ndarray:
    kept, scorer.placewise = scorer.placewise, {}
    found, _ = scorer.score(model)
    scorer.placewise = kept
    return found


@pytest.mark.parametrize("kind", EXPECTED)
def test_every_architecture_narrows_what_nobody_reads(
    kind: str, make_model: Callable[..., Any], requests: Requests
) -> None:
    model = make_model(kind)
    scorer = scorer_of(model, requests)
    assert set(scorer.placewise) == EXPECTED[kind]
    found, _ = scorer.score(model)
    np.testing.assert_allclose(found, scored_everywhere(scorer, model), atol=2e-4, rtol=0)
    assert not any("forward" in vars(module) for module in model.modules())


def test_the_last_mlp_sees_the_predicting_places_alone(make_model: Callable[..., Any], requests: Requests) -> None:
    model = make_model("llama")
    scorer = scorer_of(model, requests)
    rows: list[list[int]] = []
    for block in decoder_blocks(model):
        seen: list[int] = []
        rows.append(seen)
        block.mlp.down_proj.register_forward_hook(
            lambda _, inputs, __, seen=seen: seen.append(inputs[0][..., 0].numel())
        )
    scorer.score(model)
    batches = scorer.batches()
    assert rows[0] == [batch.tokens.numel() for batch in batches]
    assert rows[1] == [len(batch.places) for batch in batches]
    assert sum(rows[1]) < sum(rows[0]) / 2


def test_a_module_that_mixes_places_runs_everywhere(make_model: Callable[..., Any], requests: Requests) -> None:
    """Though it does so by less than rounding."""

    class Shifting(torch.nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            before: torch.Tensor = inputs.roll(1, 1)
            return super().forward(inputs + 1e-9 * before)

    model = make_model("llama")
    block = decoder_blocks(model)[-1]
    block.self_attn.q_proj.__class__ = Shifting
    assert set(scorer_of(model, requests).placewise) == LLAMA_LIKE - {"self_attn.q_proj"}
    block.mlp.down_proj.__class__ = Shifting  # so that it reads what all others give, everywhere
    assert not scorer_of(model, requests).placewise


def test_a_replaced_module_runs_everywhere(make_model: Callable[..., Any], requests: Requests) -> None:
    model = make_model("llama")
    scorer = scorer_of(model, requests)
    block = decoder_blocks(model)[-1]
    block.self_attn.q_proj = torch.nn.Sequential(block.self_attn.q_proj)
    seen: list[int] = []
    block.self_attn.q_proj.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0][..., 0].numel()))
    scorer.score(model)
    assert seen == [batch.tokens.numel() for batch in scorer.batches()]


@pytest.mark.parametrize("fused_outside", [True, False])
def test_nests_with_fused_forwards_and_leaves_no_trace(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, fused_outside: bool
) -> None:
    import contextlib
    import sys
    import types

    kernels = types.SimpleNamespace(gated=lambda gate, up, _: torch.nn.functional.silu(gate) * up)
    monkeypatch.setitem(sys.modules, "methods.kernels.elementwise", kernels)
    monkeypatch.setattr("methods.walk.fused.norm_forward", lambda *_: None)
    monkeypatch.setattr("methods.walk.fused.ROTARY", "none")
    model = make_model("llama", dtype=torch.bfloat16)
    block = decoder_blocks(model)[-1]
    places = torch.tensor([1, 4, 5])
    reading = Reading({"mlp": type(block.mlp)}, places, 6)
    hidden = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    with torch.inference_mode():
        wanted = block.mlp(hidden).flatten(0, 1)
        contexts = [lambda: fused(model, force=True), lambda: only_where_read(block, reading)]
        with contextlib.ExitStack() as stack:
            for context in contexts if fused_outside else contexts[::-1]:
                stack.enter_context(context())
            found = block.mlp(hidden).flatten(0, 1)
    torch.testing.assert_close(found[places], wanted[places])
    assert not found[[0, 2, 3]].any()
    assert not any("forward" in vars(module) for module in model.modules())
