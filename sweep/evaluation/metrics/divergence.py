"""How far two next-token distributions are apart: Jensen-Shannon and Kullback-Leibler divergence, in float32.

Both are sums over the vocabulary of terms whose small values matter: a good 4-bit model is 0.001 nats away from the
dense one, and the textbook formulas lose that in the rounding of entropies of several nats. Here every term is written
so that it cannot be negative, with d = -|log p - log q| and u = exp(d) - 1, relative to the larger of the two
probabilities. Equal distributions give exactly 0, and nothing overflows however far apart they are.

Jensen-Shannon: JS(P, Q) = (KL(P, M) + KL(Q, M)) / 2 with M = (P + Q) / 2 (Khanal & Capone, arXiv 2409.11233), natural
logarithm, at most ln 2; temperature 1, teacher forcing on fixed text, the whole vocabulary.
"""

from __future__ import annotations

from methods.lazy import torch


def divergences(
    dense: torch.Tensor, dense_norm: torch.Tensor, other: torch.Tensor, other_norm: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(JS, KL(dense, other), KL(other, dense)) in nats for each row.

    `dense` and `other` are logits (n, vocabulary) in float32, the norms their log-sum-exp (n,). Both logits are
    overwritten. Comparisons, masks and `where` are avoided: torch does not vectorize them on a CPU, and one `where`
    costs as much there as all the rest.
    """
    difference = torch.sub(dense, other).sub_((dense_norm - other_norm)[:, None])  # log p - log q
    work = torch.clamp_max(difference, 0)
    larger = dense.sub_(dense_norm[:, None]).sub_(work).exp_()  # max(p, q)
    d = torch.abs(difference, out=work).neg_()
    u = torch.expm1(d, out=other)  # in (-1, 0]; 1 + u is the smaller probability over the larger
    product = torch.mul(u, d)

    # p log(p/m) + q log(q/m) = larger * (ratio * d - (1 + ratio) * log((1 + ratio) / 2)) with ratio = 1 + u
    log_middle = torch.mul(u, 0.5).log1p_()
    joint = torch.add(u, 2).mul_(log_middle).neg_().add_(product).add_(d).clamp_min_(0)
    js = _dot(larger, joint).mul_(0.5)

    # KL(p, q) = sum of p log(p/q) - p + q. With a the term when p is the larger and b when q is, a + b = u * d and
    # a - b = 2 (u - d) - u * d, so both directions are half of the sum plus or minus half of the signed difference
    both = _dot(larger, product)
    signed = torch.sub(u, d, out=joint).mul_(2).sub_(product).copysign_(difference)
    apart = _dot(larger, signed)
    return js, (both + apart).mul_(0.5).clamp_min_(0), (both - apart).mul_(0.5).clamp_min_(0)


def _dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Row-wise sum of products."""
    return torch.linalg.vecdot(left, right)
