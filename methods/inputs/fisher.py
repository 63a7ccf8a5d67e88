"""The Fisher information of a weight, which is its own, beside a sample of the inputs, which linears share.

The sample comes from the inputs as they pass; the sums of squared gradients come from a pass of their own
(`methods/walk/gradients.py`) and are put beside it for each weight, `of_weight`.
"""

from __future__ import annotations

import copy
from typing import ClassVar

from methods.inputs.sample import InputSample
from methods.lazy import torch


class Fisher(InputSample):
    """Sums of the loss's squared gradients over rows and columns of one weight, and the sample of its inputs."""

    of_gradients: ClassVar[bool] = True

    def __init__(self, cols: int, device: torch.device | str | None = None) -> None:
        super().__init__(cols, device)
        self._sums: tuple[torch.Tensor, torch.Tensor] | None = None

    def of_weight(self, rows: torch.Tensor, columns: torch.Tensor) -> Fisher:
        """The same inputs with the sums of one weight: the means over windows of Σ_j g_ij² [rows] and Σ_i g_ij² [cols].

        It takes no further inputs.
        """
        found = copy.copy(self)
        found._sums = (rows, columns)
        return found

    @property
    def rows(self) -> torch.Tensor:
        """[rows]: the mean over windows of Σ_j g_ij²."""
        return self._of_this_weight[0]

    @property
    def columns(self) -> torch.Tensor:
        """[cols]: the mean over windows of Σ_i g_ij²."""
        return self._of_this_weight[1]

    @property
    def _of_this_weight(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._sums is None:
            raise ValueError("the gradients of a weight were not given; see Fisher.of_weight")
        return self._sums
