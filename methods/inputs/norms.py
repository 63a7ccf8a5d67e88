"""How large every input of a linear is: its norm for Wanda, the mean and largest of its sizes for AWQ and others."""

from __future__ import annotations

from methods.inputs.sample import Sampled
from methods.lazy import torch
from methods.numerics.grids import divide


class FeatureNorms(Sampled):
    """Mean over windows of ‖X_j‖² for every input j, and a sample of the inputs for the output error."""

    def __init__(self, cols: int, device: torch.device | str | None = None) -> None:
        super().__init__(cols, device)
        self._squares = torch.zeros(cols, dtype=torch.float32, device=device)

    def _add(self, inputs: torch.Tensor, windows: int) -> None:
        if inputs.is_cuda:
            self._squares += column_norms(inputs, 2).square_()
        else:
            self._squares += inputs.float().square().sum(0)

    @property
    def squared_norms(self) -> torch.Tensor:
        """[cols], float32: the mean over windows of the squared norm of each input."""
        self._check(self._squares)
        return divide(self._squares, max(self.windows, 1))

    @property
    def dead_columns(self) -> torch.Tensor:
        return (self._squares == 0).sum()


class Magnitudes(Sampled):
    """Mean and largest |X_j| of every input j, over all tokens."""

    def __init__(self, cols: int, device: torch.device | str | None = None) -> None:
        super().__init__(cols, device)
        self._sum = torch.zeros(cols, dtype=torch.float32, device=device)
        self._largest = torch.zeros(cols, dtype=torch.float32, device=device)
        self._excess: torch.Tensor | None = None  # Σ (w - 1) over tokens that count w times

    def _add(self, inputs: torch.Tensor, windows: int) -> None:
        if inputs.is_cuda:
            self._sum += column_norms(inputs, 1)
            self._largest = torch.maximum(self._largest, column_norms(inputs, float("inf")))
        else:
            sizes = inputs.float().abs()
            self._sum += sizes.sum(0)
            self._largest = torch.maximum(self._largest, sizes.amax(0))

    def _add_weighted(self, inputs: torch.Tensor, windows: int, weights: torch.Tensor) -> None:
        sizes = inputs.float().abs()
        self._sum += weights @ sizes
        self._largest = torch.maximum(self._largest, sizes.amax(0))
        excess = (weights - 1).sum()
        self._excess = excess if self._excess is None else self._excess + excess

    @property
    def mean(self) -> torch.Tensor:
        self._check(self._sum)
        if self._excess is not None:
            return self._sum / (self.tokens + self._excess)
        return divide(self._sum, max(self.tokens, 1))

    @property
    def largest(self) -> torch.Tensor:
        self._check(self._sum)
        return self._largest


def column_norms(inputs: torch.Tensor, order: float) -> torch.Tensor:
    """The norm of every column of `inputs` [tokens, cols], float32 [cols], in one reading of 16-bit inputs.

    On a CUDA device within 1e-5 of float64, relative: it sums in float32, as a tree.
    """
    norms: torch.Tensor = torch.linalg.vector_norm(inputs, order, dim=0, dtype=torch.float32)
    return norms
