"""The Fisher information of weights: squared gradients of the language-model loss, window by window.

The empirical Fisher uses the true next tokens. Gradients are taken one window at a time, since the square of a batch's
mean gradient is not the mean of the squares. Only sums over rows and over columns are kept, not the matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from methods.lazy import torch
from methods.walk.lengths import length_rule, padded_positions
from methods.walk.linears import Linear

Sums = tuple["torch.Tensor", "torch.Tensor"]


def squared_gradients(
    model: torch.nn.Module, linears: Sequence[Linear], tokens: Any, attention_mask: Any = None
) -> dict[int, Sums]:
    """For every linear (by position) the mean over windows of Σ_j g_ij² [rows] and Σ_i g_ij² [cols], float32."""
    device = next(model.parameters()).device
    tokens = torch.as_tensor(tokens).to(device=device, dtype=torch.long)
    mask = None if attention_mask is None else torch.as_tensor(attention_mask).to(device=device, dtype=torch.long)
    parameters = {id(_parameter(linear)): _parameter(linear) for linear in linears}
    before = {id(p): p.requires_grad for p in model.parameters()}
    counted = mask is not None and length_rule(model, lambda few: model(input_ids=few)).turn(mask.shape[1]) is not None
    sums: dict[int, Sums] = {}
    try:
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in parameters)
        for number, window in enumerate(tokens):
            part = None if mask is None else mask[number : number + 1]
            positions = padded_positions(part) if counted and part is not None else None
            gradients = _gradients(model, window[None], part, positions, list(parameters.values()))
            by_parameter = dict(zip(parameters, gradients, strict=True))
            for index, linear in enumerate(linears):
                _add(sums, index, _slice(linear, by_parameter[id(_parameter(linear))]), len(tokens))
    finally:
        for parameter in model.parameters():
            parameter.requires_grad_(before[id(parameter)])
    return sums


def _gradients(
    model: torch.nn.Module,
    window: torch.Tensor,
    mask: torch.Tensor | None,
    positions: torch.Tensor | None,
    parameters: list[Any],
) -> Any:
    named = {} if positions is None else {"position_ids": positions}
    labels = window if mask is None else window.masked_fill(mask == 0, -100)
    with torch.enable_grad():
        logits = model(input_ids=window, attention_mask=mask, use_cache=False, **named).logits
        loss = torch.nn.functional.cross_entropy(logits[0, :-1].float(), labels[0, 1:], ignore_index=-100)
        return torch.autograd.grad(loss, parameters, allow_unused=True)


def _parameter(linear: Linear) -> Any:
    return getattr(linear.module, linear.attribute) if linear.kind == "expert" else linear.module.weight


def _slice(linear: Linear, gradient: torch.Tensor | None) -> torch.Tensor:
    """The gradient of one linear as [rows, cols]; zero for a weight that the window did not use."""
    if gradient is None:
        return torch.zeros_like(linear.weight, dtype=torch.float32)
    if linear.kind == "expert":
        gradient = gradient[linear.expert]
    return gradient.T if linear.kind == "conv1d" else gradient


def _add(sums: dict[int, Sums], index: int, gradient: torch.Tensor, windows: int) -> None:
    squares = gradient.float().square() / windows
    rows, columns = squares.sum(1), squares.sum(0)
    old = sums.get(index)
    sums[index] = (rows, columns) if old is None else (old[0] + rows, old[1] + columns)
