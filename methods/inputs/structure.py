"""Which linears of a block share an input: what joint factors need to know, and what shows in any forward."""

from __future__ import annotations

from methods.inputs.statistic import Statistic
from methods.lazy import torch


class Structure(Statistic):
    """Nothing about the data: which linears share an input is all that is known."""

    of_data = False

    def _add(self, inputs: torch.Tensor, windows: int) -> None:
        pass

    def output_error(self, delta: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return delta.square().sum(), weight.square().sum()
