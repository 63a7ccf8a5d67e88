"""What a method needs to know about the inputs of a linear, accumulated window by window.

A statistic sees the input vectors of one distinct input (q, k and v share theirs) and sums in float32, whatever the
dtype of the activations. Windows are counted, not tokens, as in the reference code of GPTQ, SparseGPT and Wanda, so
scales agree with theirs. Each statistic also answers what a replaced weight costs in the layer's output,
`output_error`: exactly when it holds the Hessian, on a fixed sample of input vectors otherwise (a diagonal
alone ignores how inputs move together). Padding never gets here; NaN and infinity raise, when the statistic is read.

Nothing here waits for the device while batches go through a block: an answer that the host needs is asked for once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from calib.settings import SettingsError
from methods.lazy import torch
from methods.numerics.backend import device_kernels
from methods.numerics.factor import (
    Factor,
    FactorSettings,
    all_finite,
    check_finite,
    full_precision,
    inverse_factor,
    inverse_factors,
)
from methods.numerics.grids import divide
from methods.numerics.precision import add_product, halves_of, split_product

if TYPE_CHECKING:
    from methods.base import Method

SAMPLE_PER_WINDOW = 16  # input vectors kept of each window for the output error: 256 of a small set of 16 windows
MANY = 8  # Hessians of one width, of experts
BATCHED_COLUMNS = {False: 1024, True: 2048}  # up to which one call is faster: 1.5 x for 3 of 512, 2.2 x for 16 of 2,048
BATCHED_ENTRIES = 2**26  # of Hessians in one call: 256 MiB, and a few times that while it runs
SAMPLE_LIMIT = 2048  # of 128 windows; more vectors change the error's estimate by less than its spread over sets


class Statistic:
    """Sums over the input vectors of one linear. `windows` and `tokens` count what was seen.

    `of_data` is false when nothing but the model's structure is looked at.
    """

    name: ClassVar[str] = "statistic"
    of_data: ClassVar[bool] = True

    def __init__(self, cols: int, device: Any = None) -> None:
        self.cols = cols
        self.device = device
        self.windows = 0
        self.tokens = 0
        self._checked = False

    def update(self, inputs: torch.Tensor, windows: int = 1) -> None:
        """Add `inputs` [tokens, cols], which come from `windows` windows."""
        self.windows += windows
        self.tokens += inputs.shape[0]
        self._checked = False
        if inputs.shape[0]:
            self._add(inputs, windows)

    def output_error(self, delta: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(‖ΔX‖², ‖WX‖²) for `delta` and `weight` [rows, cols], float32, as scalars on the device."""
        raise NotImplementedError(f"{type(self).__name__}.output_error")

    def _add(self, inputs: torch.Tensor, windows: int) -> None:
        raise NotImplementedError(f"{type(self).__name__}._add")

    def _check(self, sums: torch.Tensor) -> None:
        """Raise CompressionError when `sums` are not finite; the device is asked once for all linears."""
        if not self._checked:
            check_finite(sums)
            self._checked = True


class Sampled(Statistic):
    """A statistic that keeps a sample of the input vectors: evenly spaced tokens, the same for every trial.

    While tokens arrive every `_step`-th of all so far is kept, with a step that doubles when they become too many, and
    from these the sample is taken in the end. So it depends on the tokens and their order alone, not on how they were
    put into batches.
    """

    def __init__(self, cols: int, device: Any = None) -> None:
        super().__init__(cols, device)
        self._kept: list[torch.Tensor] = []
        self._step = 1

    def update(self, inputs: torch.Tensor, windows: int = 1) -> None:
        while -(-(self.tokens + inputs.shape[0]) // self._step) > SAMPLE_LIMIT:
            self._step *= 2
            self._kept = [torch.cat(self._kept)[::2].clone()] if self._kept else []
        first = -self.tokens % self._step
        if first < inputs.shape[0]:
            self._kept.append(inputs[first :: self._step].clone())
        super().update(inputs, windows)

    def _vectors(self) -> torch.Tensor:
        """The sample in the dtype of the inputs."""
        if not self._kept:
            return torch.zeros(0, self.cols, device=self.device)
        kept = torch.cat(self._kept)
        step = max(1, len(kept) // (SAMPLE_PER_WINDOW * max(1, self.windows)))
        return kept[: len(kept) // step * step : step]

    def sample(self) -> torch.Tensor:
        """The sample of the input vectors, [vectors, cols], float32."""
        return self._vectors().float()

    def output_error(self, delta: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sample = self._vectors()
        if sample.dtype == torch.bfloat16 and delta.is_cuda:
            outputs = split_product(sample, halves_of(torch.cat([delta, weight]).T))
            change, size = outputs.split([delta.shape[0], weight.shape[0]], dim=1)
            return change.square().sum(), size.square().sum()
        sample = sample.float()
        return (sample @ delta.T).square().sum(), (sample @ weight.T).square().sum()


class FeatureNorms(Sampled):
    """Mean over windows of ‖X_j‖² for every input j, and a sample of the inputs for the output error."""

    name = "feature_norms"

    def __init__(self, cols: int, device: Any = None) -> None:
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


class Magnitudes(Sampled):
    """Mean and largest |X_j| of every input j, over all tokens."""

    name = "magnitudes"

    def __init__(self, cols: int, device: Any = None) -> None:
        super().__init__(cols, device)
        self._sum = torch.zeros(cols, dtype=torch.float32, device=device)
        self._largest = torch.zeros(cols, dtype=torch.float32, device=device)

    def _add(self, inputs: torch.Tensor, windows: int) -> None:
        if inputs.is_cuda:
            self._sum += column_norms(inputs, 1)
            self._largest = torch.maximum(self._largest, column_norms(inputs, float("inf")))
        else:
            sizes = inputs.float().abs()
            self._sum += sizes.sum(0)
            self._largest = torch.maximum(self._largest, sizes.amax(0))

    @property
    def mean(self) -> torch.Tensor:
        self._check(self._sum)
        return divide(self._sum, max(self.tokens, 1))

    @property
    def largest(self) -> torch.Tensor:
        self._check(self._sum)
        return self._largest


class InputSample(Sampled):
    """Only the sample of the inputs, for the output error of methods that look at something else."""

    name = "sample"

    def __init__(self, cols: int, device: Any = None) -> None:
        super().__init__(cols, device)
        self._total = torch.zeros((), dtype=torch.float32, device=device)  # finite as long as every input is

    def _add(self, inputs: torch.Tensor, windows: int) -> None:
        self._total += torch.where(all_finite(inputs), 0.0, float("nan"))

    def check(self) -> None:
        """Raise CompressionError when an input was NaN or infinite."""
        self._check(self._total)


class Structure(Statistic):
    """Nothing about the data: which linears share an input is all that is known."""

    name = "structure"
    of_data = False

    def _add(self, inputs: torch.Tensor, windows: int) -> None:
        pass

    def output_error(self, delta: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return delta.square().sum(), weight.square().sum()


class Fisher(Statistic):
    """Sums of the loss's squared gradients over rows and columns of one weight, and the sample of its inputs.

    `rows` [rows] and `columns` [cols] hold the mean over windows of Σ_j g_ij² and Σ_i g_ij²
    (methods/walk/gradients.py).
    """

    name = "fisher"

    def __init__(self, sample: Statistic, rows: torch.Tensor, columns: torch.Tensor) -> None:
        super().__init__(sample.cols, sample.device)
        assert isinstance(sample, InputSample)
        self._sample, self.windows, self.tokens = sample, sample.windows, sample.tokens
        self.rows, self.columns = rows, columns

    def check(self) -> None:
        """Raise CompressionError when an input was NaN or infinite."""
        self._sample.check()

    def output_error(self, delta: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._sample.output_error(delta, weight)


class Hessian(Statistic):
    """H = (2 / windows) Σ x xᵀ, the Hessian of the layer's squared output error (Frantar et al. 2022, eq. 3)."""

    name = "hessian"
    panel = 256  # columns of one product; only the upper triangle of panels is computed
    cuda_panel = 512  # the same on a CUDA device, and of 16-bit inputs
    half_panel = 2048
    errors_at_once = 2**25  # entries of a weight in a product of the output error: 128 MiB in float32
    tokens_per_product = 2048  # without the kernel: matrix units round sums down, a bias that grows with their length

    def __init__(self, cols: int, device: Any = None) -> None:
        super().__init__(cols, device)
        self._sum = torch.zeros(cols, cols, dtype=torch.float32, device=device)
        self._half = False  # of 16-bit inputs on a CUDA device
        self._closed = 0  # windows when the sum became the Hessian, 0 while it is a sum
        self._factors: dict[FactorSettings, Factor] = {}

    def _add(self, inputs: torch.Tensor, windows: int) -> None:
        self._reopen()
        short = inputs.dtype in (torch.bfloat16, torch.float16)
        self._half = inputs.is_cuda and short
        gram = device_kernels(inputs, "gram") if short else None
        if gram is not None and gram.suits(inputs):
            gram.add_gram(self._sum, inputs)
            return
        if self._half:
            for piece in inputs.split(self.tokens_per_product):
                for start in range(0, self.cols, self.half_panel):
                    stop = start + self.half_panel
                    add_product(self._sum[start:stop, start:], piece[:, start:stop].T, piece[:, start:])
            return
        inputs = inputs.float()
        width = self.cuda_panel if inputs.is_cuda else self.panel
        with full_precision():
            for start in range(0, self.cols, width):
                part = inputs[:, start : start + width]
                self._sum[start : start + width, start:].addmm_(part.T, inputs[:, start:])

    @property
    def on_cuda(self) -> bool:
        return self._sum.is_cuda

    @property
    def hessian(self) -> torch.Tensor:
        """[cols, cols], float32, symmetric, without damping. Raises CompressionError when it is not finite."""
        self._check(self._sum)
        return self._unchecked()

    def _unchecked(self) -> torch.Tensor:
        if not self._closed:  # in the memory of the sum: of a 70B model's widest layers it is 3 GiB
            mirrored(self._sum.mul_(2.0 / max(self.windows, 1)))
            self._closed = self.windows
        return self._sum

    def _reopen(self) -> None:
        """Go on adding after the Hessian was asked for; the sum so far is rounded once more."""
        self._factors.clear()
        if self._closed:
            self._sum.mul_(self._closed / 2.0)
            self._closed = 0

    def factor(self, settings: FactorSettings) -> Factor:
        """The factor of the damped inverse, made once for all linears that share this input."""
        if settings not in self._factors:  # which checks as well, but only when it fails
            self._factors[settings] = inverse_factor(self._unchecked(), settings)
        return self._factors[settings]

    def output_error(self, delta: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hessian = self._unchecked()
        halves = halves_of(hessian) if self._half else None
        error = size = torch.zeros((), device=delta.device)
        rows = max(1, self.errors_at_once // self.cols)
        for part, dense in zip(delta.split(rows), weight.split(rows), strict=True):
            both = torch.cat([part, dense])
            with full_precision():
                products = both @ hessian if halves is None else split_product(both, halves)
            error = error + (products[: len(part)] * part).sum()
            size = size + (products[len(part) :] * dense).sum()
        return error, size


def factor_together(hessians: Sequence[Hessian], settings: FactorSettings) -> None:
    """Make the factor of the first of `hessians` on a GPU, and those of others as wide in the same calls if that pays.

    The others' factors are there when their turn comes. Where it does not pay, nothing is done: a factor is made when
    it is asked for.
    """
    batch = alike_in_width(hessians, settings)
    if batch and batch[0].on_cuda:
        factors = inverse_factors([hessian._unchecked() for hessian in batch], settings)
        for hessian, factor in zip(batch, factors, strict=True):
            if factor is not None:
                hessian._factors[settings] = factor


def alike_in_width(hessians: Sequence[Hessian], settings: FactorSettings) -> list[Hessian]:
    """The first Hessian and those as wide that are factored with it; empty if it is better off alone, or has a factor.

    One call is faster up to 1,024 columns, and for many Hessians, of experts, up to 2,048.
    """
    if not hessians or settings in hessians[0]._factors:
        return []
    cols = hessians[0].cols
    batch = [h for h in hessians if h.cols == cols and h.tokens and settings not in h._factors]
    batch = batch[: max(2, BATCHED_ENTRIES // cols**2)]
    pays = len(batch) > 1 and batch[0] is hessians[0] and cols <= BATCHED_COLUMNS[len(batch) >= MANY]
    return batch if pays else []


def mirrored(upper: torch.Tensor, panel: int = 2048) -> torch.Tensor:
    """The symmetric matrix with this upper triangle, [cols, cols], in its memory; what is below is overwritten."""
    for start in range(0, upper.shape[0], panel):
        stop = start + panel
        upper[stop:, start:stop] = upper[start:stop, stop:].T
        corner = upper[start:stop, start:stop]
        corner.copy_(torch.triu(corner) + torch.triu(corner, 1).T)
    return upper


STATISTICS: dict[str, type[Statistic]] = {
    kind.name: kind for kind in (FeatureNorms, Magnitudes, InputSample, Structure, Hessian)
}


def make_statistic(needs: str, cols: int, device: Any = None) -> Statistic:
    """The statistic of that name for a linear with `cols` inputs; for `fisher`, the part that the inputs give."""
    return STATISTICS["sample" if needs == "fisher" else needs](cols, device)


def collect(method: Method, inputs: Any, weight: torch.Tensor) -> Statistic | None:
    """The statistic that `method` needs from `inputs` [windows, length, cols], added one window at a time."""
    if method.needs == "none":
        return None
    if method.needs == "structure":
        return Structure(weight.shape[1], weight.device)
    if method.needs not in STATISTICS:
        raise SettingsError(f"{method.name}: needs a whole model; use methods.blockwise.compress_model")
    if inputs is None:
        raise SettingsError(f"{method.name}: needs inputs [windows, length, cols] of the linear, got None")
    inputs = torch.as_tensor(inputs).to(weight.device)
    if inputs.dim() == 2:
        inputs = inputs[None]
    if inputs.dim() != 3 or inputs.shape[2] != weight.shape[1]:
        raise SettingsError(
            f"{method.name}: inputs of shape {tuple(inputs.shape)} do not fit a weight of shape {tuple(weight.shape)};"
            f" expected [windows, length, {weight.shape[1]}]"
        )
    statistic = make_statistic(method.needs, weight.shape[1], weight.device)
    for window in inputs:
        statistic.update(window)
    return statistic


def column_norms(inputs: torch.Tensor, order: float) -> torch.Tensor:
    """The norm of every column of `inputs` [tokens, cols], float32 [cols], in one reading of 16-bit inputs.

    On a CUDA device within 1e-5 of float64, relative: it sums in float32, as a tree.
    """
    norms: torch.Tensor = torch.linalg.vector_norm(inputs, order, dim=0, dtype=torch.float32)
    return norms


def output_error(
    weight: torch.Tensor, stored: torch.Tensor, statistic: Statistic | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(‖(W−Ŵ)X‖², ‖WX‖²) on the calibration inputs, or (‖W−Ŵ‖², ‖W‖²) without a statistic: scalars on the device."""
    dense = weight.float()
    delta = dense - stored.float()
    if statistic is None:
        return delta.square().sum(), dense.square().sum()
    return statistic.output_error(delta, dense)
