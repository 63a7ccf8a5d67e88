"""What GPTQ, SparseGPT and SpQR have in common: linears that share an input are stacked and solved column by column.

The factor of the inverse Hessian depends on the input alone, and rows are independent, so one factor and one pass over
the columns serve all linears of an input. A method says which factor it wants and how it solves the stacked weights;
stacking, splitting and the factor's telemetry are here, the loops themselves in `methods/numerics/solvers.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from calib.settings import settings
from methods.base import WeightMethod
from methods.inputs.hessian import Hessian, factor_together
from methods.lazy import torch
from methods.numerics.factor import Factor, FactorSettings
from methods.numerics.grids import ScaleDtype
from methods.outcome import CompressedWeight


@settings
class ColumnMethod(WeightMethod[Hessian]):
    """A method that takes one input after the other and makes up for its error in the inputs still to come."""

    needs: ClassVar[type[Hessian]] = Hessian

    @property
    def factor_settings(self) -> FactorSettings:
        """How the Hessian is damped and ordered for the factor that `solve` works with."""
        raise NotImplementedError(f"{type(self).__name__}.factor_settings")

    def solve(
        self, weights: Sequence[torch.Tensor], factor: Factor, pruned: torch.Tensor | None
    ) -> list[CompressedWeight]:
        """What takes the place of each of `weights` [rows, cols], without the factor's telemetry.

        `pruned` [cols, all rows] marks the weights that stay zero.
        """
        raise NotImplementedError(f"{type(self).__name__}.solve")

    def prepare(self, statistics: Sequence[Hessian]) -> None:
        factor_together(statistics, self.factor_settings)

    def compress_weight(
        self, weight: torch.Tensor, statistic: Hessian, *, pruned: torch.Tensor | None = None
    ) -> CompressedWeight:
        return self.compress_weights([weight], statistic, pruned=[pruned])[0]

    def compress_weights(
        self,
        weights: Sequence[torch.Tensor],
        statistic: Hessian,
        *,
        pruned: Sequence[torch.Tensor | None] | None = None,
    ) -> list[CompressedWeight]:
        factor = statistic.factor(self.factor_settings)
        results = self.solve(weights, factor, stack_masks(weights, pruned))
        dead = factor.dead.sum()
        return [
            replace(result, damping=factor.damping, retries=factor.retries, fallback=factor.fallback, dead_columns=dead)
            for result in results
        ]


def stack_columns(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Weights [rows, cols] that share an input as one float32 [cols, all rows], a copy."""
    return torch.cat([weight.detach().float() for weight in weights]).T.clone(memory_format=torch.contiguous_format)


def stack_masks(weights: Sequence[torch.Tensor], masks: Sequence[torch.Tensor | None] | None) -> torch.Tensor | None:
    """Masks [rows, cols] as one [cols, all rows]; None when there are none."""
    if masks is None or all(mask is None for mask in masks):
        return None
    full = [torch.zeros_like(w, dtype=torch.bool) if m is None else m for w, m in zip(weights, masks, strict=True)]
    return torch.cat(full).T.contiguous()


def split_columns(
    columns: torch.Tensor,
    loss: torch.Tensor,
    weights: Sequence[torch.Tensor],
    bits: float,
    scale_dtype: ScaleDtype | None = None,
) -> list[CompressedWeight]:
    """Undo `stack_columns` after the solver: one result for each of `weights`, with its part of `loss` [all rows]."""
    rows = [weight.shape[0] for weight in weights]
    return [
        CompressedWeight(part.T.contiguous(), bits=bits, loss=losses.sum(), scale_dtype=scale_dtype)
        for part, losses in zip(columns.split(rows, dim=1), loss.split(rows), strict=True)
    ]
