"""ASVD (Yuan et al. 2023, arXiv:2312.05821): SVD of W·D with D = diag(size of the inputs ^ alpha).

Large inputs make errors in their columns expensive. Dead inputs count as the smallest live one, so that D has an
inverse.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from calib.settings import settings
from methods.base import register
from methods.families.lowrank import Factors, LowRank, truncated
from methods.inputs.norms import Magnitudes
from methods.lazy import torch


@register("asvd")
@settings
class ASVD(LowRank[Magnitudes]):
    """alpha: 0.5 in the paper. statistic: the mean or the largest |X_j|."""

    needs: ClassVar[type[Magnitudes]] = Magnitudes
    title: ClassVar[str] = "ASVD"

    alpha: float = Field(default=0.5, ge=0, le=2)
    statistic: Literal["mean", "max"] = "mean"

    def describe(self) -> str:
        return (
            super().describe()
            + ("" if self.alpha == 0.5 else f" α {self.alpha:g}")
            + " max" * (self.statistic == "max")
        )

    def factors(self, weight: torch.Tensor, statistic: Magnitudes, rank: int) -> Factors:
        sizes = statistic.mean if self.statistic == "mean" else statistic.largest
        dead = sizes == 0
        smallest = sizes[~dead].min() if bool((~dead).any()) else torch.ones((), device=sizes.device)
        scale = torch.where(dead, smallest, sizes).pow(self.alpha)
        left, right = truncated(weight.float() * scale, rank)
        return Factors(left, right / scale, dead_columns=dead.sum())
