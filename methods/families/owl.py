"""OWL (Yin et al. 2023, arXiv:2310.05175): blocks with more outliers are pruned less, the mean stays as asked.

An outlier is a weight whose |W_ij|·‖X_j‖ is more than M times the mean over its block. The blocks' outlier shares are
rescaled to an interval of width 2λ and their distance from the mean is taken off the sparsity. Shares are measured on
the dense model, in one pass before the walk. The hard case is keeping the mean: blocks need not have equal size, and a
block can lose no less than nothing and no more than LARGEST_SPARSITY, so what one cannot take, the others do.
"""

from __future__ import annotations

from collections.abc import Sequence

from methods.inputs.norms import FeatureNorms
from methods.lazy import torch
from methods.protocols import Survey

LARGEST_SPARSITY = 0.99
BISECTIONS = 60  # of an interval of a few units: to the last bit of a float


def block_sparsities(survey: Survey, sparsity: float, *, threshold: float, width: float) -> dict[int, float]:
    """The sparsity of every block that has weights in scope, by its number; the mean over all weights is `sparsity`.

    threshold: M. width: λ. Raises CompressionError when a weight or an input is not finite.
    """

    def measure(weights: Sequence[tuple[torch.Tensor, FeatureNorms]]) -> tuple[float, int]:
        scores = [weight.float().abs() * statistic.squared_norms.sqrt() for weight, statistic in weights]
        return outlier_share(scores, threshold), sum(score.numel() for score in scores)

    found = survey.measure(FeatureNorms, measure)
    if not found:  # all blocks are skipped
        return {}
    shares, sizes = [share for share, _ in found.values()], [size for _, size in found.values()]
    return dict(zip(found, allocate(shares, sizes, sparsity, width), strict=True))


def outlier_share(scores: Sequence[torch.Tensor], threshold: float) -> float:
    """Percent of a block's scores (|W|·‖X‖ of all its linears) above `threshold` times their mean."""
    count = sum(part.numel() for part in scores)
    mean = sum(float(part.sum()) for part in scores) / count
    return 100.0 * sum(int((part > threshold * mean).sum()) for part in scores) / count


def allocate(shares: Sequence[float], sizes: Sequence[int], sparsity: float, width: float) -> list[float]:
    """The sparsity of every block from its outlier share; `width` is λ, `sizes` the blocks' numbers of weights.

    The mean over all weights is `sparsity`.
    """
    low, high = min(shares), max(shares)
    if high == low:
        return [sparsity] * len(shares)
    scaled = [(share - low) / (high - low) * 2 * width for share in shares]
    mean = _mean(scaled, sizes)
    return _within_limits([sparsity + mean - value for value in scaled], sizes, sparsity)


def _within_limits(wanted: list[float], sizes: Sequence[int], sparsity: float) -> list[float]:
    """`wanted` moved by one number and then limited, such that the mean over all weights is `sparsity`."""
    most = max(LARGEST_SPARSITY, sparsity)

    def moved(by: float) -> list[float]:
        return [min(max(value + by, 0.0), most) for value in wanted]

    if moved(0.0) == wanted:
        return wanted
    low, high = -1.0 - max(wanted), 1.0 - min(wanted)  # all blocks at their least, all at their most
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _mean(moved(middle), sizes) < sparsity else (low, middle)
    return moved((low + high) / 2)


def _mean(values: Sequence[float], sizes: Sequence[int]) -> float:
    return sum(value * size for value, size in zip(values, sizes, strict=True)) / sum(sizes)
