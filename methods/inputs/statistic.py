"""What a method needs to know about the inputs of a linear, accumulated window by window.

A statistic sees the input vectors of one distinct input (q, k and v share theirs) and sums in float32, whatever the
dtype of the activations. Windows are counted, not tokens, as in the reference code of GPTQ, SparseGPT and Wanda, so
scales agree with theirs. Each statistic also answers what a replaced weight costs in the layer's output,
`output_error`: exactly when it holds the Hessian, on a fixed sample of input vectors otherwise (a diagonal alone
ignores how inputs move together). Tokens may count more or less than once: then every sum and every sample is weighted,
while windows and tokens are counted as they are. Padding never gets here; NaN and infinity raise, when the statistic is
read. The hard case is a device that computes while the host goes on: nothing here waits for it while batches go through
a block, and an answer that the host needs is asked for once.

Words of this room: a *statistic* is what is known of one distinct input of a block; an input is *dead* when it was
always zero; a *sample* is the input vectors that are kept; to *measure* is to ask what a replaced weight costs.
"""

from __future__ import annotations

from typing import ClassVar

from methods.lazy import torch
from methods.numerics.factor import check_finite


class Statistic:
    """Sums over the input vectors of one linear. `windows` and `tokens` count what was seen.

    of_data: false when nothing but the model's structure is looked at. of_gradients: a weight's own gradients of the
    loss belong to it as well (`methods/inputs/fisher.py`).
    """

    of_data: ClassVar[bool] = True
    of_gradients: ClassVar[bool] = False

    def __init__(self, cols: int, device: torch.device | str | None = None) -> None:
        self.cols = cols
        self.device = device
        self.windows = 0
        self.tokens = 0
        self._checked = False

    def update(self, inputs: torch.Tensor, windows: int = 1, weights: torch.Tensor | None = None) -> None:
        """Add `inputs` [tokens, cols], which come from `windows` windows.

        weights: how often each token counts, [tokens], float32, above zero; None: once.
        """
        self.windows += windows
        self.tokens += inputs.shape[0]
        self._checked = False
        if inputs.shape[0] and weights is None:
            self._add(inputs, windows)
        elif inputs.shape[0] and weights is not None:
            self._add_weighted(inputs, windows, weights)

    def output_error(self, delta: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(‖ΔX‖², ‖WX‖²) for `delta` and `weight` [rows, cols], float32, as scalars on the device."""
        raise NotImplementedError(f"{type(self).__name__}.output_error")

    @property
    def dead_columns(self) -> torch.Tensor | int:
        """How many inputs were always zero, where that is known; a tensor is a scalar on the device."""
        return 0

    def _add(self, inputs: torch.Tensor, windows: int) -> None:
        raise NotImplementedError(f"{type(self).__name__}._add")

    def _add_weighted(self, inputs: torch.Tensor, windows: int, weights: torch.Tensor) -> None:
        """Sums of squares: a token that counts w times is one that is √w times as large."""
        self._add(scaled(inputs, weights), windows)

    def _check(self, sums: torch.Tensor) -> None:
        """Raise CompressionError when `sums` are not finite; the device is asked once for all linears."""
        if not self._checked:
            check_finite(sums)
            self._checked = True


def scaled(inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """`inputs` [tokens, cols] times the roots of `weights` [tokens], in float32: 16 bits would round the product."""
    return inputs.float() * weights.sqrt()[:, None]


def output_error(
    weight: torch.Tensor, stored: torch.Tensor, statistic: Statistic | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(‖(W−Ŵ)X‖², ‖WX‖²) on the calibration inputs, or (‖W−Ŵ‖², ‖W‖²) without a statistic: scalars on the device."""
    dense = weight.float()
    delta = dense - stored.float()
    if statistic is None:
        return delta.square().sum(), dense.square().sum()
    return statistic.output_error(delta, dense)
