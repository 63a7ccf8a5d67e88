"""How far two next-token distributions are apart: Jensen-Shannon and Kullback-Leibler divergence, in float32.

Both are sums over the vocabulary of terms whose small values matter: a good 4-bit model is 0.001 nats away from the
dense one, and the textbook formulas lose that in the rounding of entropies of several nats. Here every term is written
so that it cannot be negative, with d = -|log p - log q| and u = exp(d) - 1, relative to the larger of the two
probabilities. Equal distributions give exactly 0, swapping them gives exactly the same Jensen-Shannon divergence, and
nothing overflows however far apart they are.

Jensen-Shannon: JS(P, Q) = (KL(P, M) + KL(Q, M)) / 2 with M = (P + Q) / 2 (Khanal & Capone, arXiv 2409.11233), natural
logarithm, at most ln 2; temperature 1, teacher forcing on fixed text, the whole vocabulary.
"""

from __future__ import annotations

import torch


def divergences(dense: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(JS, KL(dense, other), KL(other, dense)) in nats for each row of log-probabilities (n, vocabulary), float32.

    `dense` and `other` are overwritten: the chunks are large and their memory is used for the steps in between.
    """
    difference = dense - other  # log p - log q
    above = difference >= 0
    larger = torch.maximum(dense, other, out=dense).exp_()
    d = difference.abs_().neg_()
    u = torch.expm1(d, out=other)  # in (-1, 0]
    ratio = u + 1  # the smaller probability over the larger

    # p log(p/m) + q log(q/m), over the larger of both: ratio * d - (1 + ratio) * log((1 + ratio) / 2)
    joint = torch.addcmul(ratio * d, -(ratio + 1), torch.log1p(u * 0.5)).clamp_(min=0)
    js = 0.5 * _dot(larger, joint)

    # a log(a/b) - a + b for a the larger and for a the smaller one; over whole distributions -a + b sums to zero
    from_larger = (u - d).clamp_(min=0)
    from_smaller = torch.addcmul(-u, ratio, d).clamp_(min=0)
    forward = _dot(larger, torch.where(above, from_larger, from_smaller))
    backward = _dot(larger, torch.where(above, from_smaller, from_larger))
    return js, forward, backward


def _dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Row-wise sum of products."""
    return torch.linalg.vecdot(left, right)
