"""GPTQ (Frantar et al. 2022, arXiv:2210.17323): quantize one input at a time and let the later ones make up for it.

The Hessian of the layer's squared output error is damped because few tokens leave it singular; when it still cannot be
factorized, damping rises in recorded steps, then float64 is used, and then the layer fails. Two details differ between
published versions and are settings. The defaults are those that won a paired measurement (docs/methods.md), inputs by
falling diagonal and grids fitted on the dense weights; the reference code's own defaults are `act_order: false` and
`static_groups: false`, where a group is fitted when it is reached, on weights that lack the updates of their own column
block (`fresh_group_stats: true` gives them those).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from calib.settings import settings
from methods.base import register
from methods.families.columnwise import ColumnMethod, split_columns, stack_columns
from methods.families.grids import GridMethod
from methods.lazy import torch
from methods.numerics.blocks import GridTable, GroupPlan
from methods.numerics.factor import Factor, FactorSettings
from methods.numerics.grids import GridRule
from methods.numerics.solvers import fitted_grids, quantize_columns
from methods.outcome import CompressedWeight


@register("gptq")
@settings
class GPTQ(GridMethod, ColumnMethod):
    """Optimal brain quantization in a fixed order of inputs.

    mse: search for the range of a grid with the least error instead of minimum to maximum. act_order: inputs by falling
    diagonal of the Hessian. static_groups: group grids are fitted on the dense weights, otherwise when the group is
    reached; null: wherever there are groups and they are not fresh. fresh_group_stats: see the module. percdamp:
    damping as a share of the mean diagonal. block_size: columns per lazy update, a matter of speed (and of what dynamic
    groups see).
    """

    version: ClassVar[int] = 2

    mse: bool = False
    act_order: bool = True
    static_groups: bool | None = None
    fresh_group_stats: bool = False
    percdamp: float = Field(default=0.01, ge=0)
    block_size: int = Field(default=128, ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("static_groups", "fresh_group_stats"):
            if getattr(self, name) and self.group_size is None:
                raise ValueError(f"{name}: needs a group_size, got none (one grid a row)")
        if self.static_groups and self.fresh_group_stats:
            raise ValueError("fresh_group_stats: static groups are fitted before anything changes; give one of the two")
        if self.static_groups is None:
            object.__setattr__(self, "static_groups", self.group_size is not None and not self.fresh_group_stats)

    def describe(self) -> str:
        dynamic = self.group_size is not None and not (self.static_groups or self.fresh_group_stats)
        flags = {"no act-order": not self.act_order, "dynamic": dynamic, "fresh": self.fresh_group_stats}
        return " ".join(["GPTQ", self.describe_grid(), *(name for name, on in flags.items() if on)])

    @property
    def rule(self) -> GridRule:
        return replace(super().rule, mse=self.mse)

    @property
    def factor_settings(self) -> FactorSettings:
        return FactorSettings(self.percdamp, act_order=self.act_order)

    @property
    def scattered(self) -> bool:
        """Whether the inputs of a group do not stand together: groups of the order, and not of the weight."""
        return self.group_size is not None and self.act_order and not self.static_groups

    def solve(
        self, weights: Sequence[torch.Tensor], factor: Factor, pruned: torch.Tensor | None
    ) -> list[CompressedWeight]:
        columns = stack_columns(weights)
        grids = self._grids(columns, factor)
        columns = factor.ordered(columns)
        mask = None if pruned is None else factor.ordered(pruned)
        quantized, loss = quantize_columns(columns, factor.upper, grids, self.block_size, mask)
        quantized = factor.restored(quantized)
        bits = self.rule.stored_bits(quantized.shape[0], self.group_size)
        results = split_columns(quantized, loss, weights, bits, self.scale_dtype)
        if not self.scattered:
            return results
        group_of = self._group_of(factor)
        return [replace(result, group_of=group_of) for result in results]

    def _group_of(self, factor: Factor) -> torch.Tensor:
        """int32 [cols]: the group of every input as it stands, where groups follow the order of the factor."""
        assert self.group_size is not None
        places = torch.arange(factor.upper.shape[0], dtype=torch.int32, device=factor.upper.device)
        return factor.restored(places // self.group_size)

    def _grids(self, columns: torch.Tensor, factor: Factor) -> GridTable | GroupPlan:
        """Grids as the reference fits them; zeroes the weights of dead inputs after a row's grid, before a group's."""
        if self.group_size is None:
            grids: GridTable | GroupPlan = fitted_grids(columns, self.rule, None)
            columns[factor.dead] = 0
            return grids
        columns[factor.dead] = 0
        if not self.static_groups:
            return GroupPlan(self.rule, self.group_size, fresh=self.fresh_group_stats)
        table = fitted_grids(columns, self.rule, self.group_size)
        group_of = table.group_of if factor.order is None else table.group_of[factor.order]
        return GridTable(table.scale, table.low, table.high, group_of)
