"""What a method may learn of the dense model before its walk, so that it can treat every block in its own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from methods.inputs.statistic import Statistic
from methods.lazy import torch
from methods.walk.batches import Data, capture
from methods.walk.collector import Collector
from methods.walk.linears import Linear, check_linears
from methods.walk.residency import resident

S = TypeVar("S", bound=Statistic)
T = TypeVar("T")


@dataclass(frozen=True)
class Survey:
    """The dense model with its calibration data: see `methods.base.Survey`. `scope`: the linears of every block."""

    model: torch.nn.Module
    decoder: torch.nn.ModuleList
    scope: Sequence[Sequence[Linear]]
    data: Data | None

    @property
    def blocks(self) -> int:
        return len(self.decoder)

    def measure(self, kind: type[S], of: Callable[[Sequence[tuple[torch.Tensor, S]]], T]) -> dict[int, T]:
        """`of` the weights in scope, each with the statistic of its input, for every block that has some.

        One pass of the calibration data through the dense blocks. Raises CompressionError when a weight is not finite.
        """
        assert self.data is not None, "a method that looks at inputs is not data-free"
        batches = capture(self.model, self.decoder, self.data)
        found: dict[int, T] = {}
        for index, block in enumerate(self.decoder):
            with resident(self.model, index, index + 1 if index + 1 < self.blocks else None):
                if self.scope[index]:
                    check_linears(self.scope[index], index)
                    collector = Collector(self.scope[index], kind)
                    for batch in range(len(batches)):
                        collector.run(block, index, batches, batch)
                    found[index] = of(
                        [(each.weight, shared.statistic) for shared in collector.finished() for each in shared.linears]
                    )
                for batch in range(len(batches)):
                    batches.keep(batch, batches.run(block, index, batch))
        return found
