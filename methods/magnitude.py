"""Magnitude pruning: the smallest weights go, without calibration data. The null control of the pruning methods.

The count is exact and equal weights go by index. `reference_ties` takes the rule of the published scripts (Wanda's
`prune_magnitude`, SparseGPT's `--gmp`) instead: every weight up to a threshold goes, which prunes more when
weights tie.
"""

from __future__ import annotations

from typing import Literal

from calib.settings import settings
from methods.base import register
from methods.families.pruning import ScoredPruning
from methods.lazy import torch
from methods.numerics.selection import at_most_threshold


@register("magnitude")
@settings
class Magnitude(ScoredPruning[None]):
    """compare: weights compete within the whole `matrix` or within each `row`."""

    compare: Literal["matrix", "row"] = "matrix"
    reference_ties: bool = False

    def describe(self) -> str:
        return f"Magnitude {self.amount}" + (" rows" if self.compare == "row" else "")

    @property
    def by_row(self) -> bool:
        return self.compare == "row"

    def count_in_row(self, cols: int) -> int:
        return round(cols * self.share)

    def scores(self, weight: torch.Tensor, statistic: None) -> torch.Tensor:
        return weight.float().abs()

    def mask(self, scores: torch.Tensor) -> torch.Tensor:
        if self.reference_ties and self.kept_of is None and not self.by_row:
            return at_most_threshold(scores, self.share)
        return super().mask(scores)
