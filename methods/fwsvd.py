"""FWSVD (Hsu et al. 2022, arXiv:2207.00112): SVD of diag(I)·W with I_i² the Fisher information of row i.

The information is the loss's squared gradients, summed over the row. Rows without any count as the smallest with some;
a weight that the loss does not feel at all is an error.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from calib.settings import settings
from methods.base import register
from methods.families.lowrank import Factors, LowRank, truncated
from methods.inputs.fisher import Fisher
from methods.lazy import torch
from methods.outcome import CompressionError


@register("fwsvd")
@settings
class FWSVD(LowRank[Fisher]):
    """axis: `rows` weights outputs as in the paper; `cols` weights inputs as in the code published with ASVD."""

    needs: ClassVar[type[Fisher]] = Fisher
    title: ClassVar[str] = "FWSVD"

    axis: Literal["rows", "cols"] = "rows"

    def describe(self) -> str:
        return super().describe() + " cols" * (self.axis == "cols")

    def factors(self, weight: torch.Tensor, statistic: Fisher, rank: int) -> Factors:
        statistic.check()
        information = (statistic.rows if self.axis == "rows" else statistic.columns).sqrt()
        live = information > 0
        if not bool(torch.isfinite(information).all()) or not bool(live.any()):
            raise CompressionError("the loss has no finite, non-zero gradient with respect to this weight")
        scale = torch.where(live, information, information[live].min())
        if self.axis == "rows":
            left, right = truncated(weight.float() * scale[:, None], rank)
            return Factors(left / scale[:, None], right)
        left, right = truncated(weight.float() * scale, rank)
        return Factors(left, right / scale, dead_columns=(~live).sum())
