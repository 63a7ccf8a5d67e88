from __future__ import annotations

import numpy as np
import pytest
import torch

from sweep.evaluation.scorer.attention import ExplicitMask, TreeAttention, attend
from sweep.evaluation.scorer.scoring import read_targets
from tests.sweep.evaluation.scorer.rows import (
    DEVICE,
    FLOAT32_ERROR,
    HALF,
    HALF_ERROR,
    needs_kernels,
    packed_row,
    reference,
)

pytestmark = pytest.mark.filterwarnings("ignore")


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
    wanted, wanted_hits = read_targets(logits, row, target, 16)
    found, hits = read_targets(logits.to(DEVICE), row.to(DEVICE), target.to(DEVICE), 16)
    torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=2e-5)
    assert torch.equal(hits.cpu(), wanted_hits)
    assert wanted_hits[::2].all()
