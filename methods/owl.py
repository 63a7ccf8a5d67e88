"""OWL (Yin et al. 2023, arXiv:2310.05175): blocks with more outliers are pruned less, the mean stays as asked.

An outlier is a weight whose |W_ij|·‖X_j‖ is more than M times the mean over its block. The blocks' outlier shares are
rescaled to an interval of width 2λ and their distance from the mean is taken off the sparsity. The mean is kept because
decoder blocks have equal size. Shares are measured on the dense model, in one pass before the walk.
"""

from __future__ import annotations

from collections.abc import Sequence

from methods.lazy import torch

LARGEST_SPARSITY = 0.99


def outlier_share(scores: Sequence[torch.Tensor], threshold: float) -> float:
    """Percent of a block's scores (|W|·‖X‖ of all its linears) above `threshold` times their mean."""
    count = sum(part.numel() for part in scores)
    mean = sum(float(part.sum()) for part in scores) / count
    return 100.0 * sum(int((part > threshold * mean).sum()) for part in scores) / count


def block_sparsities(shares: Sequence[float], sparsity: float, width: float) -> list[float]:
    """The sparsity of every block from its outlier share; `width` is λ."""
    low, high = min(shares), max(shares)
    if high == low:
        return [sparsity] * len(shares)
    scaled = [(share - low) / (high - low) * 2 * width for share in shares]
    mean = sum(scaled) / len(scaled)
    return [min(max(sparsity + mean - value, 0.0), LARGEST_SPARSITY) for value in scaled]
