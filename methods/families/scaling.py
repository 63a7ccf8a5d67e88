"""What AWQ and SmoothQuant have in common: inputs are scaled by their magnitudes, and the block computes what it did.

A method says how large the scales are; which linears share an input, where a scale can be folded, and the telemetry
against the dense weights are found here. Experts that no token reached have no magnitudes: they stay as they are, and
their reports say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from calib.settings import settings
from methods.base import BlockMethod
from methods.inputs.norms import Magnitudes
from methods.outcome import Measurement
from methods.protocols import BlockInput, BlockWork
from methods.walk.folding import ScaleGroup, find_folds


@settings
class ScalingMethod(BlockMethod):
    """A method that moves scales between the layers of a block, found from the magnitudes of the dense inputs."""

    version: ClassVar[int] = 2
    needs: ClassVar[type[Magnitudes]] = Magnitudes
    through_linears: ClassVar[bool] = False  # a scale may also be folded into the linear before, not a norm alone

    propagate: bool = False

    def groups(
        self, job: BlockWork, collected: Sequence[BlockInput[Magnitudes]]
    ) -> tuple[list[ScaleGroup[Magnitudes]], dict[str, Measurement]]:
        """The groups of linears that tokens reached, with their folds, and the measurements of all other linears."""
        reached = [(shared.linears, shared.statistic) for shared in collected if shared.statistic.tokens]
        left = [linear for shared in collected if not shared.statistic.tokens for linear in shared.linears]
        groups = find_folds(job, reached, through_linears=self.through_linears)
        return groups, {linear.name: job.unreached(linear) for linear in left}
