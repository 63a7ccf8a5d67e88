"""The factor of the inverse Hessian that drives GPTQ, SparseGPT and SpQR, and the policy when it cannot be had.

U is upper triangular with UᵀU = (H + λI)⁻¹. With the order of the inputs reversed, U is the inverse of a Cholesky
factor: H + λI = R Rᵀ with R upper triangular gives U = R⁻¹, so one Cholesky and one triangular inverse suffice. The
hard case is a Hessian of fewer tokens than inputs: it is singular, and only damping decides. When the factorization
fails, damping is raised in recorded steps, then float64 is used, and then the layer fails with a CompressionError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from methods.lazy import torch
from methods.numerics.precision import full_precision
from methods.outcome import CompressionError

DAMPING_STEPS = (1.0, 2.0, 10.0)
SMALLEST_RAISED = 1e-3  # where raising starts when the damping asked for is smaller (or zero)


@dataclass(frozen=True)
class Factor:
    """`upper` is U [cols, cols]; `order` the permutation of the inputs it belongs to (None: as they stand).

    `dead` marks inputs that were always zero, in the original order. `damping` is the share of the mean diagonal that
    was added; `retries` counts how often it was raised; `fallback` says so in words, or is None.
    """

    upper: torch.Tensor
    dead: torch.Tensor
    order: torch.Tensor | None
    damping: float
    retries: int
    fallback: str | None

    def ordered(self, columns: torch.Tensor) -> torch.Tensor:
        """`columns` [cols, rows], inputs as they stand, in the order that U belongs to."""
        return columns if self.order is None else columns[self.order]

    def restored(self, columns: torch.Tensor) -> torch.Tensor:
        """Undo `ordered`."""
        return columns if self.order is None else torch.empty_like(columns).index_copy_(0, self.order, columns)


def check_finite(sums: torch.Tensor) -> None:
    """Raise CompressionError when what was summed over the inputs of a linear is not finite."""
    if not bool(all_finite(sums)):
        raise CompressionError("its inputs hold NaN or infinity; the model or the calibration text is at fault")


def all_finite(values: torch.Tensor) -> torch.Tensor:
    """Whether no entry is NaN or infinite, a scalar on the device, found without a copy of `values`."""
    return torch.isfinite(torch.linalg.vector_norm(values, float("inf")))


@dataclass(frozen=True)
class FactorSettings:
    """How a Hessian is made ready for its factor.

    percdamp: λ as a share of the mean diagonal. act_order: inputs by falling diagonal, equal ones by index. Dead inputs
    get a diagonal of 1; damp_dead: that 1 counts in the mean and in the order and is damped too (GPTQ, SparseGPT);
    false: it replaces the diagonal at last (SpQR).
    """

    percdamp: float
    act_order: bool = field(default=False, kw_only=True)
    damp_dead: bool = field(default=True, kw_only=True)


def inverse_factor(hessian: torch.Tensor, settings: FactorSettings) -> Factor:
    """Factor (H + λI)⁻¹ for one `hessian` [cols, cols]. The host asks the device once, whether it worked.

    Raises CompressionError when `hessian` is not finite, or when neither more damping nor float64 helps.
    """
    raw, damp_dead = hessian.diagonal(), settings.damp_dead
    dead = raw == 0
    diagonal = torch.where(dead, 1.0, raw) if damp_dead else raw
    order = torch.argsort(diagonal, descending=True, stable=True) if settings.act_order else None
    mean = diagonal.mean().double()
    backwards = torch.arange(hessian.shape[0], device=hessian.device) if order is None else order
    backwards = backwards.flip(0)
    for dtype in (torch.float32, torch.float64):
        for retry, damping in _dampings(settings.percdamp, last=dtype is torch.float64):
            matrix = hessian.flip(0, 1) if order is None else hessian[backwards][:, backwards]
            matrix = matrix.to(dtype)
            damped = diagonal.to(dtype) + damping * mean
            damped = damped if damp_dead else torch.where(dead, 1.0, damped)
            matrix.diagonal().copy_(damped[backwards])
            upper = upper_inverse(matrix)
            if upper is not None:
                return Factor(upper.float(), dead, order, damping, retry, _describe(retry, damping, dtype))
            if retry == 0:
                check_finite(hessian)
    raise CompressionError(
        f"the Hessian of {hessian.shape[0]} inputs could not be factorized, in float64 with damping"
        f" {max(settings.percdamp, SMALLEST_RAISED) * DAMPING_STEPS[-1]:g}; give more calibration windows or a larger"
        " percdamp"
    )


def inverse_factors(hessians: Sequence[torch.Tensor], settings: FactorSettings) -> list[Factor | None]:
    """`inverse_factor` for several Hessians [cols, cols] of one width, each step one call for all of them.

    None for those that need more than the first try in float32. The host asks the device once for all.
    """
    matrices = torch.stack(list(hessians))
    cols = matrices.shape[1]
    raw = matrices.diagonal(dim1=1, dim2=2)
    dead = raw == 0
    diagonal = torch.where(dead, 1.0, raw) if settings.damp_dead else raw.clone()
    added = (settings.percdamp * diagonal.mean(1).double()).float()[:, None]
    damped = diagonal + added if settings.damp_dead else torch.where(dead, 1.0, diagonal + added)
    raw.copy_(damped)
    order = torch.argsort(diagonal, dim=1, descending=True, stable=True) if settings.act_order else None
    if order is not None:
        matrices = matrices.gather(1, order[:, :, None].expand(-1, -1, cols))
        matrices = matrices.gather(2, order[:, None, :].expand(-1, cols, -1))
    identity = torch.eye(cols, device=matrices.device).expand(len(matrices), -1, -1)
    with full_precision():
        lower, failed = torch.linalg.cholesky_ex(matrices.flip(1, 2))
        upper = torch.linalg.solve_triangular(lower, identity, upper=False).flip(1, 2)
    worked = (failed == 0) & torch.isfinite(torch.linalg.vector_norm(upper, float("inf"), dim=(1, 2)))
    return [
        Factor(upper[i], dead[i], None if order is None else order[i], settings.percdamp, 0, None) if fine else None
        for i, fine in enumerate(worked.tolist())
    ]


def _dampings(percdamp: float, *, last: bool) -> list[tuple[int, float]]:
    """(retries so far, damping): float32 tries every step, float64 only the last one."""
    raised = [percdamp] + [max(percdamp, SMALLEST_RAISED) * step for step in DAMPING_STEPS[1:]]
    return [(len(raised), raised[-1])] if last else list(enumerate(raised))


def _describe(retries: int, damping: float, dtype: torch.dtype) -> str | None:
    if dtype is torch.float64:
        return f"float64, damping raised to {damping:g}"
    return f"damping raised to {damping:g}" if retries else None


def upper_inverse(reversed_matrix: torch.Tensor) -> torch.Tensor | None:
    """U [cols, cols] with UᵀU = M⁻¹, or None when M is not positive definite in its dtype.

    Takes M with rows and columns in reversed order, and its memory: a Hessian of 29 thousand inputs fills 3 GiB.
    """
    with full_precision():
        if reversed_matrix.is_cuda:
            inverse = reversed_matrix.T  # symmetric, and column by column as the solvers want it
            failed = torch.empty((), dtype=torch.int32, device=inverse.device)
            torch.linalg.cholesky_ex(inverse, out=(inverse, failed))
            invert_by_halves(inverse)
        else:
            lower, failed = torch.linalg.cholesky_ex(reversed_matrix)
            inverse = reversed_matrix.zero_().T
            inverse.diagonal().fill_(1.0)
            torch.linalg.solve_triangular(lower, inverse, upper=False, out=inverse)
            del lower
    upper = inverse.flip(0, 1)
    return upper if bool((failed == 0) & all_finite(upper)) else None


def invert_by_halves(lower: torch.Tensor, smallest: int = 512) -> torch.Tensor:
    """The inverse of a lower triangular matrix [n, n] with zeros above, in its memory.

    From the inverses of its halves and two products, which a GPU does much faster than a triangular solve.
    """
    size = lower.shape[0]
    if size <= smallest:
        identity = torch.eye(size, dtype=lower.dtype, device=lower.device)
        return lower.copy_(torch.linalg.solve_triangular(lower, identity, upper=False))
    half = size // 128 * 64 or size // 2  # aligned, for the products
    corner = lower[half:, :half]
    first, second = invert_by_halves(lower[:half, :half], smallest), invert_by_halves(lower[half:, half:], smallest)
    corner.addmm_(second, corner @ first, beta=0, alpha=-1)
    return lower
