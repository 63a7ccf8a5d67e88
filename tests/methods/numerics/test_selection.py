from __future__ import annotations

import pytest
import torch

from methods.numerics.selection import (
    at_most_threshold,
    kth_smallest,
    smallest,
    smallest_in_groups,
    threshold_rank,
)


@pytest.mark.parametrize("count", [0, 1, 5, 11, 12])
def test_exact_count_and_lower_index_first_among_ties(count):
    scores = torch.tensor([[1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0.0], [3, 2, 1, 0, 3, 2, 1, 0, 3, 2, 1, 0]])
    mask = smallest(scores, count)
    expected = torch.zeros_like(mask)
    for row, marks in zip(scores.tolist(), expected, strict=True):
        for index in sorted(range(12), key=lambda i: (row[i], i))[:count]:
            marks[index] = True
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("shape", [(1000,), (7, 300), (2, 3, 64)])
def test_kth_smallest_from_bits_is_the_sorted_one(shape):
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0)).square() * 1e-3
    scores[..., ::7] = 0
    scores[..., 3::11] = -1
    scores[..., 5] = 1e-42  # a denormal
    scores[..., 8] = torch.inf
    scores[..., 10::13] = scores[..., 4:5]  # ties
    ordered = scores.sort(-1).values
    for k in (1, 2, 7, shape[-1] // 3, shape[-1] // 2, shape[-1] - 1, shape[-1]):
        assert torch.equal(kth_smallest(scores, k), ordered[..., k - 1 : k]), k


def test_kth_smallest_takes_nan_for_the_largest():
    scores = torch.tensor([[torch.nan, 2.0, -1.0, torch.inf], [1.0, 0.0, 3.0, -torch.nan]])
    assert kth_smallest(scores, 3).tolist() == [[torch.inf], [3.0]]
    assert kth_smallest(scores, 4).isnan().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [(5_000_000,), (3, 40_000), (700, 300)])
def test_masks_on_the_device_are_those_of_the_cpu_without_waiting(shape, without_waiting):
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0)).abs().bfloat16().float()  # many ties
    scores.view(-1)[::17] = -1
    count = shape[-1] // 3
    on_device = scores.cuda()
    smallest(on_device, count)
    with without_waiting():
        found = smallest(on_device, count), at_most_threshold(on_device, 0.3)
    assert torch.equal(found[0].cpu(), smallest(scores, count))
    assert torch.equal(found[1].cpu(), at_most_threshold(scores, 0.3))


@pytest.mark.parametrize(("kept", "group"), [(2, 4), (4, 8), (1, 4), (3, 4)])
def test_every_group_keeps_exactly_n_of_m_even_with_ties(kept, group):
    scores = torch.randint(0, 3, (7, 48), generator=torch.Generator().manual_seed(0)).float()
    mask = smallest_in_groups(scores, kept, group)
    assert ((~mask).reshape(7, -1, group).sum(-1) == kept).all()
    pruned = scores.masked_fill(~mask, -1).reshape(7, -1, group).amax(-1)
    stays = scores.masked_fill(mask, 9).reshape(7, -1, group).amin(-1)
    assert (pruned <= stays).all()


def test_reference_threshold_takes_all_ties():
    assert at_most_threshold(torch.tensor([1.0, 1, 1, 2]), 0.5).tolist() == [True, True, True, False]
    assert at_most_threshold(torch.tensor([1.0, 1, 1, 2]), 0.0).sum() == 0
    assert [threshold_rank(10, share) for share in (0.1, 0.29, 0.3, 0.99, 1 - 1e-17)] == [2, 3, 4, 10, 10]
