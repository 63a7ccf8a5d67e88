"""Wanda (Sun et al. 2023, arXiv:2306.11695): prune the weights with the smallest |W_ij| · ‖X_j‖ of each output row.

The norm of an input is the root of the mean over windows of its summed squares. Weights are not updated. Every row
loses exactly int(cols · sparsity) weights, equal scores by index; with a pattern, each group of m inputs keeps n.
"""

from __future__ import annotations

from typing import ClassVar

from calib.settings import settings
from methods.base import CompressedWeight, register
from methods.lazy import torch
from methods.masks import PruningMethod, smallest, smallest_in_groups
from methods.statistics import FeatureNorms, Statistic


@register("wanda")
@settings
class Wanda(PruningMethod):
    """Pruning by weights and activations."""

    needs: ClassVar[str] = "feature_norms"

    def describe(self) -> str:
        return f"Wanda {self.amount}"

    def compress_weight(
        self, weight: torch.Tensor, statistic: Statistic | None, *, pruned: torch.Tensor | None = None
    ) -> CompressedWeight:
        assert isinstance(statistic, FeatureNorms)
        norms = statistic.squared_norms
        scores = weight.float().abs() * norms.sqrt()
        if pruned is not None:
            scores = scores.masked_fill(pruned, -1.0)
        if self.kept_of is not None:
            mask = smallest_in_groups(scores, *self.kept_of)
        else:
            mask = smallest(scores, int(weight.shape[1] * self.share))
        return CompressedWeight(weight.masked_fill(mask, 0), dead_columns=int((norms == 0).sum()))
