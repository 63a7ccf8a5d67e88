"""The selection kernels beside plain torch, on one device: a CUDA device, or a CPU in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace

import pytest
import torch

from methods.numerics.backend import column_backend
from methods.numerics.selection import at_most_threshold, kth_smallest, selection_kernels, smallest
from methods.numerics.solvers import share_mask

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_kernels = pytest.mark.skipif(
    not HAS_TRITON or not (INTERPRETED or torch.cuda.is_available()),
    reason="needs Triton, and a CUDA device or TRITON_INTERPRET=1",
)
INTERPRETED_BY_DEFAULT = (
    "test_kth_smallest_is_the_sorted_one[on-the-chip-(997,)-spread]",
    "test_masks_of_exact_count_are_those_of_torch[one-by-one-(5, 129)-few-values]",
    "test_block_masks_are_those_of_torch[one-by-one-True-16-(7, 260, 33)]",
    "test_nan_counts_as_the_largest_and_is_never_marked[on-the-chip]",
)
ROWS = 5 if INTERPRETED else 130  # enough to be searched row by row
SHARES = [0.0, 1e-6, 0.5, 0.999999]


def spread(*shape, seed=0):
    """Scores of all sizes: zeros, −1, a denormal, infinity and equal ones among them."""
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).square() * 1e-3
    scores[..., ::7] = 0
    scores[..., 3::11] = -1
    scores[..., 10::13] = scores[..., 4:5]
    scores[..., 5] = 1e-42
    scores[..., 8] = torch.inf
    return scores.to(DEVICE)


SCORES = {
    "spread": lambda *shape: spread(*shape),
    "sixteen-bit": lambda *shape: (
        torch.randn(shape, generator=torch.Generator().manual_seed(1)).abs().bfloat16().float()
    ),
    "few-values": lambda *shape: torch.randint(-1, 3, shape, generator=torch.Generator().manual_seed(2)).float(),
    "denormal": lambda *shape: torch.rand(shape, generator=torch.Generator().manual_seed(3)) * 1e-38,
    "near-each-other": lambda *shape: 1 + torch.rand(shape, generator=torch.Generator().manual_seed(4)) * 1e-5,
    "all-equal": lambda *shape: torch.full(shape, 0.25),
    "all-zero": lambda *shape: torch.zeros(shape),
    "all-forced": lambda *shape: -torch.ones(shape),
}


@pytest.fixture(params=[0, 1 << 16], ids=["on-the-chip", "one-by-one"])
def counting(request, monkeypatch):
    """Both ways to count the scores that are left, and in the interpreter several small tiles for a program."""
    from methods.kernels import selection

    monkeypatch.setattr(selection, "LAUNCH", replace(selection.LAUNCH, few=request.param))
    if INTERPRETED:
        monkeypatch.setattr(selection, "LAUNCH", replace(selection.LAUNCH, tile=1024, programs=2))
        monkeypatch.setattr("methods.numerics.selection.ROWS_THAT_FILL_A_GPU", ROWS)


def both(work):
    """What `work()` returns with the kernels and in plain torch."""
    with column_backend("triton"):
        found = work()
    with column_backend("torch"):
        return found, work()


def test_kernels_equal_their_twins_in_the_interpreter(in_interpreter):
    in_interpreter(*INTERPRETED_BY_DEFAULT)


@pytest.mark.gpu
@needs_kernels
@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("shape", [(1,), (997,), (3, 2100)], ids=str)
def test_kth_smallest_is_the_sorted_one(kind, shape):
    scores = SCORES[kind](*shape).to(DEVICE) if shape[-1] > 8 else torch.full(shape, 0.5, device=DEVICE)
    ordered = scores.sort(-1).values
    size = shape[-1]
    for k in sorted({1, (size + 1) // 3, (size + 1) // 2, size - 1, size} - {0}):
        found, twin = both(lambda k=k: kth_smallest(scores, k))
        assert torch.equal(found, ordered[..., k - 1 : k]), k
        assert torch.equal(twin, found), k


@pytest.mark.gpu
@needs_kernels
@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("share", SHARES)
def test_masks_up_to_a_threshold_are_those_of_torch(kind, share):
    scores = SCORES[kind](37, 61).to(DEVICE)
    found, twin = both(lambda: at_most_threshold(scores, share))
    assert torch.equal(found, twin)


@pytest.mark.gpu
@needs_kernels
@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("shape", [(2500,), (3, 300), (ROWS, 129)], ids=str)
def test_masks_of_exact_count_are_those_of_torch(kind, shape):
    scores = SCORES[kind](*shape).to(DEVICE)
    for count in (1, shape[-1] // 2, shape[-1] - 1):
        found, twin = both(lambda count=count: smallest(scores, count))
        assert torch.equal(found, twin), count
        assert (found.sum(-1) == count).all()


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize("cols", [40, 1000, 4096])
@pytest.mark.parametrize("kind", SCORES)
def test_rows_lose_their_smallest_lower_index_first(kind, cols):
    from methods.kernels import selection

    scores = SCORES[kind](3, cols).to(DEVICE)
    for count in (1, cols // 3, cols - 1):
        found = selection.smallest_of_rows(scores, count)
        expected = torch.zeros_like(found)
        expected.scatter_(1, scores.sort(dim=1, stable=True).indices[:, :count], True)
        assert torch.equal(found, expected), count


@pytest.mark.gpu
@needs_kernels
@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("segments", [(50,), (150, 150), (7, 260, 33), (1, 1)], ids=str)
@pytest.mark.parametrize("columns", [1, 16, 53])
@pytest.mark.parametrize("forced", [False, True])
def test_block_masks_are_those_of_torch(segments, columns, forced):
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(columns + 9, sum(segments), generator=generator)
    whole[:, ::3] = whole[:, ::3].bfloat16().float() * 1e-2
    whole[::2, ::5] = 0
    whole = whole.to(DEVICE)
    upper = torch.triu(torch.rand(columns + 9, columns + 9, generator=generator) + 0.1).to(DEVICE)
    gone = (torch.rand(whole.shape, generator=generator) < 0.4).to(DEVICE) if forced else None
    part = slice(5, 5 + columns)
    for share in SHARES:
        found, twin = both(
            lambda share=share: share_mask(
                whole[part], upper[part, part].diagonal(), share, segments, None if gone is None else gone[part]
            )
        )
        assert found.dtype == torch.bool
        assert torch.equal(found, twin), share


@pytest.mark.gpu
@needs_kernels
@pytest.mark.usefixtures("counting")
def test_nan_counts_as_the_largest_and_is_never_marked():
    nan = torch.tensor(float("nan"))
    scores = spread(3, 500)
    scores[1, 20:25] = nan
    scores[1, 25:30] = torch.copysign(nan, torch.tensor(-1.0))
    for k in (1, 300, 490, 491, 500):
        found, twin = both(lambda k=k: kth_smallest(scores, k))
        ordered = scores.cpu().sort(-1).values  # a CUDA device sorts negative NaN to the front
        assert torch.equal(found.cpu().nan_to_num(-7), ordered[:, k - 1 : k].nan_to_num(-7)), k
        assert torch.equal(found.nan_to_num(-7), twin.nan_to_num(-7)), k
    for work in (
        lambda: smallest(scores, 300),
        lambda: smallest(scores, 495),
        lambda: smallest(scores.repeat(ROWS, 1), 300),
        lambda: smallest(scores.repeat(ROWS, 1), 495),
        lambda: at_most_threshold(scores, 0.7),
        lambda: at_most_threshold(scores, 0.9999),
        lambda: share_mask(scores, torch.ones(3, device=DEVICE), 0.9999, (300, 200), None),
    ):
        found, twin = both(work)
        assert torch.equal(found, twin)
        assert not found[1::3, 20:30].any()


@pytest.mark.gpu
@needs_kernels
@pytest.mark.skipif(INTERPRETED, reason="nothing waits in the interpreter")
def test_nothing_waits_for_the_device(without_waiting):
    scores, rows = spread(3_000_000), spread(200, 3000)
    block, upper = torch.randn(128, 700, device=DEVICE), torch.eye(128, device=DEVICE)

    def masks():
        return (
            smallest(scores, 1_000_000),
            at_most_threshold(scores, 0.3),
            smallest(rows, 1000),
            share_mask(block, upper.diagonal(), 0.5, (300, 400), None),
        )

    masks()
    with without_waiting():
        found = masks()
    with column_backend("torch"):
        assert all(torch.equal(mine, twin) for mine, twin in zip(found, masks(), strict=True))


@pytest.mark.gpu
@needs_kernels
def test_the_kernels_are_used():
    scores = torch.zeros(4, device=DEVICE)
    with column_backend("triton" if INTERPRETED else "auto"):
        assert selection_kernels(scores) is not None
    with column_backend("torch"):
        assert selection_kernels(scores) is None
