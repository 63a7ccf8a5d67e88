"""Magnitude pruning: the smallest weights go, without calibration data. The null control of the pruning methods.

The count is exact and equal weights go by index. `reference_ties` takes the rule of the published scripts (Wanda's
`prune_magnitude`, SparseGPT's `--gmp`) instead: every weight up to a threshold goes, which prunes more when
weights tie.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from calib.settings import settings
from methods.base import register
from methods.families.pruning import PruningMethod
from methods.inputs.statistics import Statistic
from methods.lazy import torch
from methods.numerics.selection import at_most_threshold, smallest, smallest_in_groups, smallest_spread
from methods.outcome import CompressedWeight


@register("magnitude")
@settings
class Magnitude(PruningMethod):
    """compare: weights compete within the whole `matrix` or within each `row`."""

    needs: ClassVar[str] = "none"
    keeps_codes: ClassVar[bool] = True

    compare: Literal["matrix", "row"] = "matrix"
    reference_ties: bool = False

    def describe(self) -> str:
        return f"Magnitude {self.amount}" + (" rows" if self.compare == "row" else "")

    def compress_weight(
        self, weight: torch.Tensor, statistic: Statistic | None, *, pruned: torch.Tensor | None = None
    ) -> CompressedWeight:
        scores = weight.float().abs()
        if pruned is not None:
            scores = scores.masked_fill(pruned, -1.0)
        return CompressedWeight(weight.masked_fill(self._mask(scores), 0))

    def _mask(self, scores: torch.Tensor) -> torch.Tensor:
        if self.kept_of is not None:
            return smallest_in_groups(scores, *self.kept_of)
        if self.compare == "row" and self.allocation == "owl":
            return smallest_spread(scores, self.share)
        if self.compare == "row":
            return smallest(scores, round(scores.shape[1] * self.share))
        if self.reference_ties:
            return at_most_threshold(scores, self.share)
        return smallest(scores.flatten(), round(scores.numel() * self.share)).view_as(scores)
