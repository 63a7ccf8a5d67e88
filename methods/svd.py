"""Plain singular value decomposition: the closest matrix of that rank, without data.

The null control of the low-rank methods: its spread over calibration sets is zero by construction.
"""

from __future__ import annotations

from typing import ClassVar

from calib.settings import settings
from methods.base import register
from methods.families.lowrank import Factors, LowRank, truncated
from methods.lazy import torch


@register("svd")
@settings
class SVD(LowRank[None]):
    """Nothing is weighted."""

    title: ClassVar[str] = "SVD"

    def factors(self, weight: torch.Tensor, statistic: None, rank: int) -> Factors:
        return Factors(*truncated(weight.float(), rank))
