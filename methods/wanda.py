"""Wanda (Sun et al. 2023, arXiv:2306.11695): prune the weights with the smallest |W_ij| · ‖X_j‖ of each output row.

The norm of an input is the root of the mean over windows of its summed squares. Weights are not updated. Every row
loses exactly int(cols · sparsity) weights, equal scores by index; with a pattern, each group of m inputs keeps n. Where
blocks have sparsities of their own (OWL), rounding down in every row would miss their mean: the rows whose next weight
matters least lose one more.
"""

from __future__ import annotations

from typing import ClassVar

from calib.settings import settings
from methods.base import register
from methods.families.pruning import ScoredPruning
from methods.inputs.norms import FeatureNorms
from methods.lazy import torch


@register("wanda")
@settings
class Wanda(ScoredPruning[FeatureNorms]):
    """alpha_search: rows may differ in sparsity.

    Each loses its smallest scores up to a share α of their sum, and α is searched so that the matrix reaches the asked
    sparsity (the paper's appendix).
    """

    needs: ClassVar[type[FeatureNorms]] = FeatureNorms

    alpha_search: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha_search and self.pattern is not None:
            raise ValueError(f"alpha_search: needs an unstructured sparsity, got pattern {self.pattern!r}")

    def describe(self) -> str:
        return f"Wanda {self.amount}" + (" α-search" if self.alpha_search else "")

    def scores(self, weight: torch.Tensor, statistic: FeatureNorms) -> torch.Tensor:
        return weight.float().abs() * statistic.squared_norms.sqrt()

    def mask(self, scores: torch.Tensor) -> torch.Tensor:
        return search_alpha(scores, self.share) if self.alpha_search else super().mask(scores)


def search_alpha(scores: torch.Tensor, share: float) -> torch.Tensor:
    """Mask of the scores up to the one where a row's cumulated sorted scores reach α of their sum.

    α is bisected in [0, 0.8] from 0.4 until the mask's share is within 0.001 of `share` or the interval is that small.
    A row in which no score fits under α loses nothing (the published script prunes the whole row).
    """
    positive = scores.clamp(min=0)  # weights pruned earlier have a score of −1 and go first
    ordered = positive.sort(dim=1, stable=True).values
    cumulated = ordered.cumsum(1)
    low, high, alpha = 0.0, 0.8, 0.4
    while True:
        count = (cumulated <= alpha * cumulated[:, -1:]).sum(1, keepdim=True)
        threshold = ordered.gather(1, (count - 1).clamp(min=0))
        mask = ((positive <= threshold) & (count > 0)) | (scores < 0)
        reached = float(mask.sum()) / mask.numel()
        if abs(reached - share) <= 1e-3 or high - low < 1e-3:
            return mask
        low, high = (alpha, high) if reached < share else (low, alpha)
        alpha = (low + high) / 2
