"""Low-rank factorization: a linear becomes two, [rank, cols] then [rows, rank], by a singular value decomposition.

The methods differ in what they weight the decomposition with. `svd`: nothing (data-free). `joint_svd`: nothing, but
linears that share an input share the right factor (data-free). `asvd`: the inputs' magnitudes. `svd_llm`: the Cholesky
factor of XXᵀ, which makes the truncation optimal for the layer's output. `fwsvd`: the Fisher information of the rows.
The decomposition comes from the Gram matrix in float64, which a GPU finishes several times sooner. Hard cases: singular
values too small to be squared take the full decomposition; a singular XXᵀ is shifted by a recorded amount, and a
decomposition that fails raises; fused experts cannot hold factors, so the product takes their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from calib.settings import SettingsError, settings
from methods.base import WeightMethod, register
from methods.inputs.statistics import Fisher, Hessian, Magnitudes, Statistic
from methods.lazy import torch
from methods.numerics.factor import all_finite
from methods.outcome import HALF_PRECISION_BITS, CompressedWeight, CompressionError

SMALLEST_KEPT = 1e-5  # of the largest singular value: below it a Gram matrix is not trusted
SMALLEST_SHIFT = 1e-6  # of the mean diagonal: keeps the shifted matrix positive definite in float64


@settings
class LowRank(WeightMethod):
    """ratio: parameters kept, as a share of the dense linear's; the rank is int(ratio · rows · cols / (rows + cols)).

    The bits of the report count both factors in half precision.
    """

    version: ClassVar[int] = 2
    keeps_zeros: ClassVar[bool] = False

    propagate: bool = False  # the published code takes all statistics from the dense model
    ratio: float = Field(default=0.8, gt=0, le=1)

    title: ClassVar[str] = ""

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

    def truncate(self, weighted: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
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

    def factored(self, left: torch.Tensor, right: torch.Tensor, **telemetry: Any) -> CompressedWeight:
        """The result with two factors left [rows, rank] and right [rank, cols]."""
        (rows, rank), cols = left.shape, right.shape[1]
        left, right = left.float(), right.float()
        bits = HALF_PRECISION_BITS * rank * (rows + cols) / (rows * cols)
        return CompressedWeight(left @ right, factors=(left, right), bits=bits, rank=rank, **telemetry)


@register("svd")
@settings
class SVD(LowRank):
    """The closest matrix of that rank, without data: the null control of the low-rank methods."""

    needs: ClassVar[str] = "none"
    title: ClassVar[str] = "SVD"

    def compress_weight(
        self, weight: torch.Tensor, statistic: Statistic | None, *, pruned: torch.Tensor | None = None
    ) -> CompressedWeight:
        return self.factored(*self.truncate(weight.detach().float(), self.rank(*weight.shape)))


@register("joint_svd")
@settings
class JointSVD(LowRank):
    """Plain SVD of all linears that share an input, stacked: they share the right factor (data-free)."""

    needs: ClassVar[str] = "structure"
    title: ClassVar[str] = "Joint SVD"

    @property
    def data_free(self) -> bool:
        return True

    def factor_rank(self, rows: int, cols: int, sharing: int) -> int | None:
        return self.rank(sharing, cols)

    def compress_weight(
        self, weight: torch.Tensor, statistic: Statistic | None, *, pruned: torch.Tensor | None = None
    ) -> CompressedWeight:
        return self.compress_weights([weight], statistic)[0]

    def compress_weights(
        self,
        weights: Sequence[torch.Tensor],
        statistic: Statistic | None,
        *,
        pruned: Sequence[torch.Tensor | None] | None = None,
    ) -> list[CompressedWeight]:
        stacked = torch.cat([weight.detach().float() for weight in weights])
        rows, cols = stacked.shape
        rank = self.rank(rows, cols)
        left, right = self.truncate(stacked, rank)
        bits = HALF_PRECISION_BITS * rank * (rows + cols) / (rows * cols)  # the shared factor is stored once
        return [replace(self.factored(part, right), bits=bits) for part in left.split([w.shape[0] for w in weights])]


@register("asvd")
@settings
class ASVD(LowRank):
    """ASVD (Yuan et al. 2023, arXiv:2312.05821): SVD of W·D with D = diag(size of the inputs ^ alpha).

    alpha: 0.5 in the paper. statistic: the mean or the largest |X_j|. Dead inputs count as the smallest live one.
    """

    needs: ClassVar[str] = "magnitudes"
    title: ClassVar[str] = "ASVD"

    alpha: float = Field(default=0.5, ge=0, le=2)
    statistic: Literal["mean", "max"] = "mean"

    def describe(self) -> str:
        return (
            super().describe()
            + ("" if self.alpha == 0.5 else f" α {self.alpha:g}")
            + " max" * (self.statistic == "max")
        )

    def compress_weight(
        self, weight: torch.Tensor, statistic: Statistic | None, *, pruned: torch.Tensor | None = None
    ) -> CompressedWeight:
        assert isinstance(statistic, Magnitudes)
        sizes = statistic.mean if self.statistic == "mean" else statistic.largest
        dead = sizes == 0
        smallest = sizes[~dead].min() if bool((~dead).any()) else torch.ones((), device=sizes.device)
        scale = torch.where(dead, smallest, sizes).pow(self.alpha)
        left, right = self.truncate(weight.detach().float() * scale, self.rank(*weight.shape))
        return self.factored(left, right / scale, dead_columns=dead.sum())


@register("svd_llm")
@settings
class SVDLLM(LowRank):
    """SVD-LLM (Wang et al. 2024, arXiv:2403.07378): SVD of W·S with S Sᵀ = XXᵀ, optimal for ‖(W−Ŵ)X‖.

    percdamp: damping of XXᵀ as a share of its mean diagonal (the paper uses none). When the factorization fails, XXᵀ
    is shifted by −λ_min plus a millionth of the mean diagonal, which is recorded.
    """

    needs: ClassVar[str] = "hessian"
    title: ClassVar[str] = "SVD-LLM"

    percdamp: float = Field(default=0.0, ge=0)

    def compress_weight(
        self, weight: torch.Tensor, statistic: Statistic | None, *, pruned: torch.Tensor | None = None
    ) -> CompressedWeight:
        assert isinstance(statistic, Hessian)
        root, telemetry = whiten(statistic.hessian, self.percdamp)
        left, right = self.truncate(weight.detach().double() @ root, self.rank(*weight.shape))
        right = torch.linalg.solve_triangular(root, right, upper=False, left=False)  # right · S⁻¹
        return self.factored(left, right, **telemetry)


@register("fwsvd")
@settings
class FWSVD(LowRank):
    """FWSVD (Hsu et al. 2022, arXiv:2207.00112): SVD of diag(I)·W with I_i² the Fisher information of row i.

    axis: `rows` weights outputs as in the paper; `cols` weights inputs as in the code published with ASVD.
    """

    needs: ClassVar[str] = "fisher"
    title: ClassVar[str] = "FWSVD"

    axis: Literal["rows", "cols"] = "rows"

    def describe(self) -> str:
        return super().describe() + " cols" * (self.axis == "cols")

    def compress_weight(
        self, weight: torch.Tensor, statistic: Statistic | None, *, pruned: torch.Tensor | None = None
    ) -> CompressedWeight:
        assert isinstance(statistic, Fisher)
        statistic.check()
        information = (statistic.rows if self.axis == "rows" else statistic.columns).sqrt()
        live = information > 0
        if not bool(torch.isfinite(information).all()) or not bool(live.any()):
            raise CompressionError("the loss has no finite, non-zero gradient with respect to this weight")
        scale = torch.where(live, information, information[live].min())
        dense, rank = weight.detach().float(), self.rank(*weight.shape)
        if self.axis == "rows":
            left, right = self.truncate(dense * scale[:, None], rank)
            return self.factored(left / scale[:, None], right)
        left, right = self.truncate(dense * scale, rank)
        return self.factored(left, right / scale, dead_columns=(~live).sum())


def gram_factors(weighted: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """What `LowRank.truncate` returns, from the eigenvectors V_k of the smaller Gram matrix of `weighted`, in float64.

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


def whiten(hessian: torch.Tensor, percdamp: float) -> tuple[torch.Tensor, dict[str, Any]]:
    """The lower Cholesky factor of a Gram matrix, float64, and the telemetry of its shift. Raises CompressionError."""
    matrix = hessian.double()
    mean = float(matrix.diagonal().mean())
    if mean == 0:
        raise CompressionError("all inputs are zero")
    matrix.diagonal().add_(percdamp * mean)
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if not int(failed) and float(lower.diagonal().min()) > 1e-9 * mean**0.5:
        return lower, {"damping": percdamp}
    shift = max(-float(torch.linalg.eigvalsh(matrix)[0]), 0.0) + SMALLEST_SHIFT * mean
    matrix.diagonal().add_(shift)
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        raise CompressionError("XXᵀ could not be factorized in float64 after shifting its eigenvalues; set percdamp")
    used = percdamp + shift / mean
    return lower, {"damping": used, "retries": 1, "fallback": f"XXᵀ shifted by {used:.2g} of its mean diagonal"}
