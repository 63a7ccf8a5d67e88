"""XᵀX added to a float32 sum, of which only the upper triangle is computed; the twin of `methods/kernels/gram.py`.

The most expensive of all sums: tokens · cols². The hard case is 16-bit inputs on a CUDA device: their products go
through matrix units, which round sums down, a bias that grows with the length of a product. The kernel takes them where
it is likely to be faster, and torch in pieces of few tokens elsewhere.
"""

from __future__ import annotations

from methods.lazy import torch
from methods.numerics.backend import gram_kernels
from methods.numerics.precision import add_product, full_precision

PANEL = 256  # columns of one product; only the upper triangle of panels is computed
CUDA_PANEL = 512  # the same on a CUDA device, and of 16-bit inputs
HALF_PANEL = 2048
TOKENS_PER_PRODUCT = 2048  # without the kernel: matrix units round sums down, a bias that grows with their length


def add_gram(total: torch.Tensor, inputs: torch.Tensor) -> None:
    """`total` [cols, cols] += XᵀX for `inputs` X [tokens, cols], in place; below the diagonal is anything."""
    short, cols = is_short(inputs), inputs.shape[1]
    kernels = gram_kernels(inputs) if short else None
    if kernels is not None and kernels.suits(inputs):
        kernels.add_gram(total, inputs)
    elif short and inputs.is_cuda:
        for piece in inputs.split(TOKENS_PER_PRODUCT):
            for start in range(0, cols, HALF_PANEL):
                stop = start + HALF_PANEL
                add_product(total[start:stop, start:], piece[:, start:stop].T, piece[:, start:])
    else:
        inputs = inputs.float()
        width = CUDA_PANEL if inputs.is_cuda else PANEL
        with full_precision():
            for start in range(0, cols, width):
                part = inputs[:, start : start + width]
                total[start : start + width, start:].addmm_(part.T, inputs[:, start:])


def is_short(inputs: torch.Tensor) -> bool:
    """Whether the numbers have 16 bits."""
    return inputs.dtype in (torch.bfloat16, torch.float16)


def mirrored(upper: torch.Tensor, panel: int = 2048) -> torch.Tensor:
    """The symmetric matrix with this upper triangle, [cols, cols], in its memory; what is below is overwritten."""
    for start in range(0, upper.shape[0], panel):
        stop = start + panel
        upper[stop:, start:stop] = upper[start:stop, stop:].T
        corner = upper[start:stop, start:stop]
        corner.copy_(torch.triu(corner) + torch.triu(corner, 1).T)
    return upper
