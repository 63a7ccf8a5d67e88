"""Participation ratio of the set's Hessians: in how many directions the inputs of a linear move.

tr(H)² / tr(H²) is the number of equal eigenvalues that would give both traces. Text that goes round in circles, as text
that a model writes at a low temperature does, narrows it. It grows with the number of tokens up to the width.
"""

from __future__ import annotations

from methods.lazy import torch
from sweep.describe.base import SET, Described, Numbers, register
from sweep.features.hessians import second_moments


@register("participation_ratio")
def participation_ratio(described: Described) -> Numbers:
    """The mean over distinct inputs of linears, 1 to their width."""
    found = [
        directions(moments[SET])
        for moments in second_moments(described.model, {SET: described.tokens}, described.layers, described.batch_size)
    ]
    return {SET: sum(found) / len(found)}


def directions(hessian: torch.Tensor) -> float:
    """tr(H)² / tr(H²) of a symmetric matrix; 0 for zero."""
    total, squares = float(hessian.trace()), float(hessian.square().sum())
    return total**2 / squares if squares else 0.0
