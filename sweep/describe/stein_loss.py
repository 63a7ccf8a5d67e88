"""Stein's loss between the set's and a target's Hessians: what a solution for the one costs on the other, unsolved.

With S and T the second moments of a linear's inputs in the set and the target, damped by λ as the methods damp theirs:
log det(S) - log det(T) + tr(S⁻¹ T) - cols (James and Stein 1961, sec. 5), which is zero where S = T and grows fastest
where the target moves in directions that the set does not know. It costs a Cholesky factor that methods make anyway.
"""

from __future__ import annotations

import math

from methods.lazy import torch
from sweep.describe.base import SET, Described, Numbers, register
from sweep.features.hessians import second_moments

PERCDAMP = 0.01  # of the mean of the set's diagonal, as GPTQ and SparseGPT damp a Hessian


@register("stein_loss")
def stein_loss(described: Described) -> Numbers:
    """By target: the mean over distinct inputs of linears of the loss per column."""
    if not described.targets:
        return {}
    texts = {SET: described.tokens, **described.targets}
    found: dict[str, list[float]] = {name: [] for name in described.targets}
    for moments in second_moments(described.model, texts, described.layers, described.batch_size):
        for name in found:
            found[name].append(loss_per_column(moments[SET], moments[name]))
    return {name: sum(losses) / len(losses) for name, losses in found.items()}


def loss_per_column(ours: torch.Tensor, target: torch.Tensor, percdamp: float = PERCDAMP) -> float:
    """Of two second moments [cols, cols], float64; infinite where the set's inputs are all zero."""
    cols = len(ours)
    damping = percdamp * float(ours.diagonal().mean())
    if not damping:
        return math.inf
    eye = torch.eye(cols, dtype=ours.dtype, device=ours.device)
    factor, other = (torch.linalg.cholesky(each + damping * eye) for each in (ours, target))
    whitened = torch.linalg.solve_triangular(factor, other, upper=False)  # tr(S⁻¹ T) = ‖L_S⁻¹ L_T‖²
    logarithms = 2 * (factor.diagonal().log().sum() - other.diagonal().log().sum())
    return float((logarithms + whitened.square().sum() - cols) / cols)
