"""The Hessian of a layer's squared output error, summed from its inputs, and the factor of its inverse.

How it is summed is in `methods/numerics/gram.py`, how it is inverted in `methods/numerics/factor.py`. The hard case is
memory: a Hessian of 29 thousand inputs fills 3 GiB, so everything happens in place.
"""

from __future__ import annotations

from collections.abc import Sequence

from methods.inputs.statistic import Statistic
from methods.lazy import torch
from methods.numerics.factor import Factor, FactorSettings, inverse_factor, inverse_factors
from methods.numerics.gram import add_gram, is_short, mirrored
from methods.numerics.precision import full_precision, halves_of, split_product

MANY = 8  # Hessians of one width, of experts
BATCHED_COLUMNS = {False: 1024, True: 2048}  # up to which one call is faster: 1.5 x for 3 of 512, 2.2 x for 16 of 2,048
BATCHED_ENTRIES = 2**26  # of Hessians in one call: 256 MiB, and a few times that while it runs


class Hessian(Statistic):
    """H = (2 / windows) Σ x xᵀ, the Hessian of the layer's squared output error (Frantar et al. 2022, eq. 3)."""

    errors_at_once = 2**25  # entries of a weight in a product of the output error: 128 MiB in float32

    def __init__(self, cols: int, device: torch.device | str | None = None) -> None:
        super().__init__(cols, device)
        self._sum = torch.zeros(cols, cols, dtype=torch.float32, device=device)
        self.in_halves = False  # of 16-bit inputs on a CUDA device
        self._closed = 0  # windows when the sum became the Hessian, 0 while it is a sum
        self._factors: dict[FactorSettings, Factor] = {}

    def _add(self, inputs: torch.Tensor, windows: int) -> None:
        self._reopen()
        self.in_halves = inputs.is_cuda and is_short(inputs)
        add_gram(self._sum, inputs)

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

    def has_factor(self, settings: FactorSettings) -> bool:
        """Whether that factor was made already."""
        return settings in self._factors

    def factor(self, settings: FactorSettings) -> Factor:
        """The factor of the damped inverse, made once for all linears that share this input."""
        if settings not in self._factors:  # which checks as well, but only when it fails
            self._factors[settings] = inverse_factor(self._unchecked(), settings)
        return self._factors[settings]

    def output_error(self, delta: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hessian = self._unchecked()
        halves = halves_of(hessian) if self.in_halves else None
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
    if not hessians or hessians[0].has_factor(settings):
        return []
    cols = hessians[0].cols
    batch = [h for h in hessians if h.cols == cols and h.tokens and not h.has_factor(settings)]
    batch = batch[: max(2, BATCHED_ENTRIES // cols**2)]
    pays = len(batch) > 1 and batch[0] is hessians[0] and cols <= BATCHED_COLUMNS[len(batch) >= MANY]
    return batch if pays else []
