"""A sample of the input vectors of a linear: what a replaced weight costs is seen on it where no Hessian is held.

The hard case is that nobody knows how many tokens will come, and that their batches are a matter of speed: the sample
must depend on the tokens and their order alone.
"""

from __future__ import annotations

from methods.inputs.statistic import Statistic, scaled
from methods.lazy import torch
from methods.numerics.factor import all_finite
from methods.numerics.precision import halves_of, split_product

SAMPLE_PER_WINDOW = 16  # input vectors kept of each window for the output error: 256 of a small set of 16 windows
SAMPLE_LIMIT = 2048  # of 128 windows; more vectors change the error's estimate by less than its spread over sets


class Sampled(Statistic):
    """A statistic that keeps a sample of the input vectors: evenly spaced tokens, the same for every trial.

    While tokens arrive every `_step`-th of all so far is kept, with a step that doubles when they become too many, and
    from these the sample is taken in the end. So it depends on the tokens and their order alone, not on how they were
    put into batches.
    """

    def __init__(self, cols: int, device: torch.device | str | None = None) -> None:
        super().__init__(cols, device)
        self._kept: list[torch.Tensor] = []
        self._step = 1

    def update(self, inputs: torch.Tensor, windows: int = 1, weights: torch.Tensor | None = None) -> None:
        while -(-(self.tokens + inputs.shape[0]) // self._step) > SAMPLE_LIMIT:
            self._step *= 2
            self._kept = [torch.cat(self._kept)[::2].clone()] if self._kept else []
        first = -self.tokens % self._step
        if first < inputs.shape[0]:
            some = slice(first, None, self._step)
            self._kept.append(inputs[some].clone() if weights is None else scaled(inputs[some], weights[some]))
        super().update(inputs, windows, weights)

    def _vectors(self) -> torch.Tensor:
        """The sample in the dtype of the inputs."""
        if not self._kept:
            return torch.zeros(0, self.cols, device=self.device)
        kept = torch.cat(self._kept)
        step = max(1, len(kept) // (SAMPLE_PER_WINDOW * max(1, self.windows)))
        return kept[: len(kept) // step * step : step]

    def sample(self) -> torch.Tensor:
        """The sample of the input vectors, [vectors, cols], float32; where a token counts w times, √w times its own."""
        return self._vectors().float()

    def output_error(self, delta: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sample = self._vectors()
        if sample.dtype == torch.bfloat16 and delta.is_cuda:
            outputs = split_product(sample, halves_of(torch.cat([delta, weight]).T))
            change, size = outputs.split([delta.shape[0], weight.shape[0]], dim=1)
            return change.square().sum(), size.square().sum()
        sample = sample.float()
        return (sample @ delta.T).square().sum(), (sample @ weight.T).square().sum()


class InputSample(Sampled):
    """Only the sample of the inputs, for the output error of methods that look at something else."""

    def __init__(self, cols: int, device: torch.device | str | None = None) -> None:
        super().__init__(cols, device)
        self._total = torch.zeros((), dtype=torch.float32, device=device)  # finite as long as every input is

    def _add(self, inputs: torch.Tensor, windows: int) -> None:
        self._total += torch.where(all_finite(inputs), 0.0, float("nan"))

    def check(self) -> None:
        """Raise CompressionError when an input was NaN or infinite."""
        self._check(self._total)
