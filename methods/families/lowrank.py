"""What low-rank methods have in common: a linear becomes two, [rank, cols] then [rows, rank].

The methods differ in what they weight the singular value decomposition with: nothing, the inputs' magnitudes, the
Cholesky factor of XXᵀ, the Fisher information. A method gives the two factors; the rank, the bits and the product are
here. The decomposition comes from the Gram matrix in float64, which a GPU finishes several times sooner. Hard cases:
singular values too small to be squared take the full decomposition; a decomposition that fails raises; fused experts
cannot hold factors, so the product takes their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from calib.settings import SettingsError, settings
from methods.base import N, WeightMethod
from methods.lazy import torch
from methods.numerics.factor import all_finite
from methods.outcome import HALF_PRECISION_BITS, CompressedWeight, CompressionError, Number

SMALLEST_KEPT = 1e-5  # of the largest singular value: below it a Gram matrix is not trusted


@dataclass(frozen=True)
class Factors:
    """What takes the place of a weight, left [rows, rank] and right [rank, cols], and how it was found."""

    left: torch.Tensor
    right: torch.Tensor
    damping: float | None = None
    retries: int = 0
    fallback: str | None = None
    dead_columns: Number = 0


@settings
class LowRank(WeightMethod[N]):
    """ratio: parameters kept, as a share of the dense linear's; the rank is int(ratio · rows · cols / (rows + cols)).

    The bits of the report count both factors in half precision.
    """

    version: ClassVar[int] = 2
    keeps_zeros: ClassVar[bool] = False
    title: ClassVar[str] = ""

    propagate: bool = False  # the published code takes all statistics from the dense model
    ratio: float = Field(default=0.8, gt=0, le=1)

    def factors(self, weight: torch.Tensor, statistic: N, rank: int) -> Factors:
        """The factors of `weight` [rows, cols]. Raises CompressionError when there are none."""
        raise NotImplementedError(f"{type(self).__name__}.factors")

    def describe(self) -> str:
        return f"{self.title} {100 * self.ratio:g} %"

    def rank(self, rows: int, cols: int) -> int:
        return min(int(self.ratio * rows * cols / (rows + cols)), rows, cols)

    def factor_rank(self, rows: int, cols: int, sharing: int) -> int | None:
        return self.rank(rows, cols)

    def check_shape(self, rows: int, cols: int, where: str) -> None:
        if self.rank(rows, cols) < 1:
            raise SettingsError(
                f"ratio: {self.ratio:g} leaves no rank for {rows} x {cols} ({where}); use at least"
                f" {(rows + cols) / (rows * cols):.3g}"
            )

    def compress_weight(
        self, weight: torch.Tensor, statistic: N, *, pruned: torch.Tensor | None = None
    ) -> CompressedWeight:
        return compressed(self.factors(weight.detach(), statistic, self.rank(*weight.shape)))


def compressed(found: Factors) -> CompressedWeight:
    """The weight that two factors make, in float32."""
    left, right = found.left.float(), found.right.float()
    return CompressedWeight(
        left @ right,
        factors=(left, right),
        bits=factor_bits(left.shape[0], right.shape[1], left.shape[1]),
        damping=found.damping,
        retries=found.retries,
        fallback=found.fallback,
        dead_columns=found.dead_columns,
        rank=left.shape[1],
    )


def factor_bits(rows: int, cols: int, rank: int) -> float:
    """Stored bits per weight of a matrix [rows, cols] that two factors in half precision stand for."""
    return HALF_PRECISION_BITS * rank * (rows + cols) / (rows * cols)


def truncated(weighted: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(P_k √Σ_k, √Σ_k V_kᵀ), [rows, rank] and [rank, cols], of `weighted` [rows, cols] in its dtype.

    Raises CompressionError when `weighted` is not finite or its decomposition does not converge.
    """
    if not bool(all_finite(weighted)):
        raise CompressionError("the matrix to decompose holds NaN or infinity")
    try:
        factors = gram_factors(weighted, rank)
        if factors is not None:
            return factors
        left, singular, right = torch.linalg.svd(weighted, full_matrices=False)
    except torch.linalg.LinAlgError as error:
        raise CompressionError(f"the decomposition did not converge ({error})") from None
    root = singular[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def gram_factors(weighted: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """What `truncated` returns, from the eigenvectors V_k of the smaller Gram matrix of `weighted`, in float64.

    With A = `weighted`, or its transpose when it is wide, the product is A V_k V_kᵀ. Rounding moves AᵀA by E with
    ‖E‖ = ε σ₁²; on a CPU ε stayed below 1e-14 up to 4096 columns. Whatever the gaps between singular values,
    ‖A − A V_k V_kᵀ‖² exceeds the best by at most 2 rank ε σ₁² (Frobenius), or 2 ε σ₁² (spectral), and a kept σ_i is
    wrong by a share of at most ε (σ₁ / σ_i)² / 2. None when σ_rank is no more than SMALLEST_KEPT of σ₁, where that
    share reaches 5e-5.
    """
    wide = weighted.shape[0] < weighted.shape[1]
    tall = (weighted.T if wide else weighted).double()
    squares, vectors = torch.linalg.eigh(tall.T @ tall)
    squares, vectors = squares[-rank:].flip(0), vectors[:, -rank:].flip(1)
    if not bool(squares[-1] > SMALLEST_KEPT**2 * squares[0]):
        return None
    root = squares.pow(0.25)
    left, right = (tall @ vectors).div_(root).to(weighted.dtype), vectors.mul_(root).T.to(weighted.dtype)
    return (right.T, left.T) if wide else (left, right)
