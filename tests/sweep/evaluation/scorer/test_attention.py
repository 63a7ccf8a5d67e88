"""Attention over packed tries and the summary of logits: kernels beside plain torch, on CUDA or in the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sweep.evaluation.questions.requests import Requests
from sweep.evaluation.scorer.attention import ExplicitMask, FlexAttention, TreeAttention, attend, ways
from sweep.evaluation.scorer.choice import choose_scorer
from sweep.evaluation.scorer.forward import TokenBudget, head_rule
from sweep.evaluation.scorer.scoring import PackedScorer, PlainScorer
from tests.sweep.evaluation.scorer.rows import DEVICE, needs_kernels, packed_row

pytestmark = pytest.mark.filterwarnings("ignore")


@needs_kernels
def test_what_the_kernel_does_not_compute_is_refused() -> None:
    ends, positions = packed_row(0, 32)
    rule = TreeAttention().mask(ends, positions, None, torch.float32)
    states = [torch.randn(1, 2, 32, 16, device=DEVICE) for _ in range(3)]
    for named in ("s_aux", "position_bias", "indices"):  # whatever it does not know
        with pytest.raises(NotImplementedError, match=named):
            attend(torch.nn.Module(), *states, rule, **{named: torch.zeros(2)})
    attend(torch.nn.Module(), *states, rule, s_aux=None, sliding_window=4, use_cache=False)
    for shapes in ((16, 8), (8, 8)):  # keys or values of another head size
        with pytest.raises(NotImplementedError, match="one head size"):
            attend(torch.nn.Module(), states[0], *(states[0][..., :size] for size in shapes), rule)
    with pytest.raises(NotImplementedError, match="dropout"):
        attend(torch.nn.Module(), *states, rule, dropout=0.1)
    for mask in (None, torch.zeros(1, 1, 32, 32), rule.to(torch.bfloat16), rule[..., :16]):
        with pytest.raises(ValueError, match="rule of its rows"):
            attend(torch.nn.Module(), *states, mask)


@needs_kernels
def test_a_kernel_that_a_device_cannot_run_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    from sweep.evaluation.scorer import kernels

    def too_large(*_: Any, **__: Any) -> Any:
        raise kernels.CompilerError("out of resource: shared memory")

    monkeypatch.setattr(kernels, "tree_attention", too_large)
    ends, positions = packed_row(0, 32)
    rule = TreeAttention().mask(ends, positions, None, torch.float32)
    with pytest.raises(RuntimeError, match="does not run on this device"):
        attend(torch.nn.Module(), *(torch.randn(1, 2, 32, 16, device=DEVICE) for _ in range(3)), rule)


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "gemma2", "cohere", "gpt2", "opt", "gpt_neox"])
def test_architectures_score_the_same_as_sequence_by_sequence(make_model: Callable[..., Any], kind: str) -> None:
    model = make_model(kind).to(DEVICE)
    rng = np.random.default_rng(0)
    shared = rng.integers(3, 400, 12).tolist()
    asked = [(shared[:size], rng.integers(3, 400, count).tolist()) for size in (2, 7, 12) for count in (1, 3, 5, 5)]
    requests = Requests.pack(asked, 96)
    rule = head_rule(model)
    assert rule is not None
    wanted, greedy = PlainScorer(requests, TokenBudget(model.device), rule).score(model)
    packed = PackedScorer(requests, TokenBudget(model.device), rule, TreeAttention(), 64)
    found, hits = packed.score(model)
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=0)
    np.testing.assert_array_equal(hits, greedy)
    assert model.config._attn_implementation != TreeAttention.implementation  # given back


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_takes_the_kernel_where_it_agrees(make_model: Callable[..., Any]) -> None:
    requests = Requests.pack([([5, 6, 7], [8, 9]), ([5, 6, 7], [9])], 96)
    for kind in ("llama", "mistral", "gemma2", "opt"):
        model = make_model(kind, dtype=torch.bfloat16).to(DEVICE)
        scorer = choose_scorer(model, requests, TokenBudget(model.device), head_rule(model))
        assert isinstance(scorer, PackedScorer)
        assert isinstance(scorer.attention, TreeAttention)
    assert [type(way) for way in ways(model.device)] == [TreeAttention, FlexAttention, ExplicitMask]
    model = make_model("llama", hidden_size=64).to(DEVICE)  # flex_attention asks for heads of 16 at least
    rule = head_rule(model)
    assert rule is not None
    found = [
        PackedScorer(requests, TokenBudget(model.device), rule, way, 128).score(model)[0] for way in ways(model.device)
    ]
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, atol=1e-4)
