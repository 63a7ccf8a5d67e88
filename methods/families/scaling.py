"""What AWQ and SmoothQuant have in common: inputs are scaled by their magnitudes, and the block computes what it did.

A method says how large the scales are; which linears share an input, where a scale can be folded, and the telemetry
against the dense weights are found here. Experts that no token reached have no magnitudes: they stay as they are, and
their reports say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from calib.settings import settings
from methods.base import BlockMethod, LayerReport, Replacement, layer_reports
from methods.walk.folding import ScaleGroup, find_folds

if TYPE_CHECKING:
    from methods.blockwise import BlockJob, SharedInput


@settings
class ScalingMethod(BlockMethod):
    """A method that moves scales between the layers of a block, found from the magnitudes of the dense inputs."""

    version: ClassVar[int] = 2
    needs: ClassVar[str] = "magnitudes"
    through_linears: ClassVar[bool] = False  # a scale may also be folded into the linear before, not a norm alone

    propagate: bool = False

    def groups(self, job: BlockJob, collected: Sequence[SharedInput]) -> tuple[list[ScaleGroup], list[LayerReport]]:
        """The groups of linears that tokens reached, with their folds, and the reports of all other linears."""
        reached = [(shared.linears, shared.statistic) for shared in collected if shared.statistic.tokens]
        left = [linear for shared in collected if not shared.statistic.tokens for linear in shared.linears]
        groups = find_folds(job, reached, through_linears=self.through_linears)
        return groups, [job.unreached(linear) for linear in left]


def group_reports(group: ScaleGroup, replaced: Sequence[Replacement]) -> list[LayerReport]:
    """The reports of a group's linears; `replaced` has the dense weights and the stored ones without their scales."""
    reports = layer_reports(replaced, group.statistic)
    for linear, report in zip(group.linears, reports, strict=True):
        report.linear = linear.name
    return reports
