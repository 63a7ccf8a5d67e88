"""Plain SVD of all linears that share an input, stacked: they share the right factor, which is stored once.

Data-free: which linears share an input is a matter of the model's structure, which shows in any forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from calib.settings import settings
from methods.base import register
from methods.families.lowrank import Factors, LowRank, compressed, factor_bits, truncated
from methods.inputs.structure import Structure
from methods.lazy import torch
from methods.outcome import CompressedWeight


@register("joint_svd")
@settings
class JointSVD(LowRank[Structure]):
    """The rank is that of the stacked matrix."""

    needs: ClassVar[type[Structure]] = Structure
    title: ClassVar[str] = "Joint SVD"

    def factor_rank(self, rows: int, cols: int, sharing: int) -> int | None:
        return self.rank(sharing, cols)

    def factors(self, weight: torch.Tensor, statistic: Structure, rank: int) -> Factors:
        return Factors(*truncated(weight.float(), rank))

    def compress_weights(
        self,
        weights: Sequence[torch.Tensor],
        statistic: Structure,
        *,
        pruned: Sequence[torch.Tensor | None] | None = None,
    ) -> list[CompressedWeight]:
        stacked = torch.cat([weight.detach().float() for weight in weights])
        rows, cols = stacked.shape
        rank = self.rank(rows, cols)
        joint, bits = self.factors(stacked, statistic, rank), factor_bits(rows, cols, rank)
        parts = joint.left.split([weight.shape[0] for weight in weights])
        return [replace(compressed(Factors(left, joint.right)), bits=bits) for left in parts]
