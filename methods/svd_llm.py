"""SVD-LLM (Wang et al. 2024, arXiv:2403.07378): SVD of W·S with S Sᵀ = XXᵀ, optimal for ‖(W−Ŵ)X‖.

S is a Cholesky factor, in float64. The hard case is a singular XXᵀ, of fewer tokens than inputs: it is shifted by
−λ_min plus a millionth of its mean diagonal, which is recorded.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from calib.settings import settings
from methods.base import register
from methods.families.lowrank import Factors, LowRank, truncated
from methods.inputs.hessian import Hessian
from methods.lazy import torch
from methods.outcome import CompressionError

SMALLEST_SHIFT = 1e-6  # of the mean diagonal: keeps the shifted matrix positive definite in float64


@register("svd_llm")
@settings
class SVDLLM(LowRank[Hessian]):
    """percdamp: damping of XXᵀ as a share of its mean diagonal (the paper uses none)."""

    needs: ClassVar[type[Hessian]] = Hessian
    title: ClassVar[str] = "SVD-LLM"

    percdamp: float = Field(default=0.0, ge=0)

    def factors(self, weight: torch.Tensor, statistic: Hessian, rank: int) -> Factors:
        root, telemetry = whiten(statistic.hessian, self.percdamp)
        left, right = truncated(weight.double() @ root, rank)
        right = torch.linalg.solve_triangular(root, right, upper=False, left=False)  # right · S⁻¹
        return Factors(left, right, **telemetry)


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
