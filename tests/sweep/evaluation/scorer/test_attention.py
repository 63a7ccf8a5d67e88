"""Attention over packed tries and the summary of logits: kernels beside plain torch, on CUDA or in the interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from methods.numerics.backend import has_triton
from sweep.evaluation.questions.requests import Requests
from sweep.evaluation.scorer.attention import ExplicitMask, FlexAttention, TreeAttention, attend, ways
from sweep.evaluation.scorer.choice import choose_scorer
from sweep.evaluation.scorer.forward import TokenBudget, head_rule
from sweep.evaluation.scorer.packing import pack
from sweep.evaluation.scorer.scoring import PackedScorer, PlainScorer, _read

INTERPRETED = has_triton() and os.environ.get("TRITON_INTERPRET") == "1"
needs_kernels = pytest.mark.skipif(
    not (torch.cuda.is_available() or INTERPRETED), reason="needs a CUDA device, or Triton's interpreter"
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter truncates bfloat16
FLOAT32_ERROR, HALF_ERROR = 2e-5, 2e-2  # of outputs of size one

pytestmark = pytest.mark.filterwarnings("ignore")


def packed_row(seed: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ends and positions (1, length) of branching sequences, padded as the scorer pads."""
    rng = np.random.default_rng(seed)
    shared = rng.integers(0, 50, 9).tolist()
    asked = [(shared[: rng.integers(1, 9)] + rng.integers(0, 50, 3).tolist(), rng.integers(0, 50, 4)) for _ in range(6)]
    branches = [(context, [*more.tolist()][: rng.integers(1, 5)]) for context, more in asked for _ in range(2)]
    row = pack(Requests.pack(branches, 256), length).rows[0]
    ends, positions = torch.arange(1, length + 1)[None], torch.zeros(1, length, dtype=torch.int64)
    ends[0, : len(row.ends)] = torch.as_tensor(row.ends.astype(np.int64))
    positions[0, : len(row.positions)] = torch.as_tensor(row.positions.astype(np.int64))
    return ends.to(DEVICE), positions.to(DEVICE)


def reference(query, key, value, mask, scale, softcap):
    """Attention in float64 with an additive mask [batch, 1, length, length]."""
    group = query.shape[1] // key.shape[1]
    query, key, value = (part.double() for part in (query, key, value))
    score = query @ key.repeat_interleave(group, 1).transpose(2, 3) * scale
    score = score if softcap is None else softcap * torch.tanh(score / softcap)
    weights = torch.softmax(score.masked_fill(mask < 0, float("-inf")), -1)
    return (weights @ value.repeat_interleave(group, 1)).transpose(1, 2)


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize(
    ("size", "heads", "key_heads", "length", "window", "softcap"),
    [(16, 4, 4, 64, None, None), (20, 4, 2, 100, 5, None), (64, 2, 1, 75, None, 3.0), (128, 2, 2, 130, 3, 0.5)],
)
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_the_kernel_computes_the_masked_attention(size, heads, key_heads, length, window, softcap, dtype) -> None:
    torch.manual_seed(0)
    rows = [packed_row(seed, length) for seed in range(3)]
    ends, positions = (torch.cat(column) for column in zip(*rows, strict=True))
    query = torch.randn(3, length, heads, size, device=DEVICE).to(dtype).transpose(1, 2)
    key, value = (torch.randn(3, length, key_heads, size, device=DEVICE).to(dtype).transpose(1, 2) for _ in range(2))
    rule = TreeAttention().mask(ends, positions, window, dtype)
    mask = ExplicitMask().mask(ends, positions, window, torch.float32)
    assert rule.shape == (3, 1, 4, length)
    found, _ = attend(torch.nn.Module(), query, key, value, rule, scaling=0.3, softcap=softcap)
    wanted = reference(query, key, value, mask, 0.3, softcap)
    assert found.shape == wanted.shape
    assert found.is_contiguous()
    error = (found.double() - wanted).abs().max()
    assert error < (FLOAT32_ERROR if dtype == torch.float32 else HALF_ERROR)


@pytest.mark.gpu
@needs_kernels
def test_what_a_query_must_not_see_does_not_matter() -> None:
    """Keys and values of other tries, of siblings and of later positions may be any number."""
    torch.manual_seed(0)
    ends, positions = packed_row(0, 96)
    rule = TreeAttention().mask(ends, positions, None, torch.float32)
    seen = ExplicitMask().mask(ends, positions, None, torch.float32)[0, 0] == 0
    query, key, value = (torch.randn(1, 2, 96, 16, device=DEVICE) for _ in range(3))
    wanted, _ = attend(torch.nn.Module(), query, key, value, rule)
    for place in (1, 7, 40):
        spoiled = [part.clone() for part in (key, value)]
        for part in spoiled:
            part[:, :, ~seen[place]] = 1e30
        found, _ = attend(torch.nn.Module(), query, *spoiled, rule)
        torch.testing.assert_close(found[:, place], wanted[:, place], rtol=0, atol=0)


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
@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("vocabulary", [17, 400, 10000])
def test_the_summary_of_logits_is_that_of_torch(vocabulary: int, dtype: torch.dtype) -> None:
    from sweep.evaluation.scorer.kernels import summarize

    torch.manual_seed(0)
    logits = (30 * torch.randn(9, vocabulary, device=DEVICE)).to(dtype)
    logits[1] = 4.0  # all equal: the first is the best
    logits[2, [vocabulary // 2, vocabulary - 1]] = 200.0
    logits[3, 1:] = float("-inf")
    norm, best = summarize(logits)
    torch.testing.assert_close(norm, torch.logsumexp(logits.double(), -1).float(), rtol=2e-6, atol=1e-5)
    first = torch.as_tensor([int(np.argmax(row)) for row in logits.double().cpu().numpy()])
    assert torch.equal(best.cpu(), first)
    logits[4, 3] = float("nan")
    assert bool(summarize(logits)[0].isnan()[4])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_reads_the_same_from_logits_as_plain_torch() -> None:
    torch.manual_seed(0)
    logits = (8 * torch.randn(64, 1000)).bfloat16()
    row, target = torch.arange(64).repeat_interleave(2), torch.randint(0, 1000, (128,))
    target[::2] = logits.float().argmax(-1)
    wanted, wanted_hits = _read(logits, row, target, 16)
    found, hits = _read(logits.to(DEVICE), row.to(DEVICE), target.to(DEVICE), 16)
    torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=2e-5)
    assert torch.equal(hits.cpu(), wanted_hits)
    assert wanted_hits[::2].all()


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
