"""Integer grids: scale and zero point of a row or of a group of columns, in the dialect of the GPTQ code.

A grid has 2^bits levels between the smallest and the largest weight, and zero is always one of them, so a pruned weight
stays exactly zero. Asymmetric grids round their zero point to an integer; symmetric ones put it in the middle. The hard
case is a constant group: all-zero weights get a grid from -1 to 1. `mse` searches for the shrinking of the range that
minimises Σ|ŵ−w|^2.4 (Frantar et al. 2022, reference code).
"""

from __future__ import annotations

from dataclasses import dataclass

from calib.settings import SettingsError
from methods.base import HALF_PRECISION_BITS
from methods.lazy import torch

MSE_NORM = 2.4
MSE_STEPS = 100
MSE_SHRINK = 0.8


@dataclass(frozen=True)
class Grid:
    """Levels scale · (0 … levels − zero). `scale` and `zero` have the shape of the weights without the fitted axis."""

    scale: torch.Tensor
    zero: torch.Tensor
    levels: int  # largest code, 2^bits − 1


def fit_grid(weights: torch.Tensor, bits: int, *, sym: bool = False, mse: bool = False, dim: int = -1) -> Grid:
    """Fit a grid to the weights along `dim`; every other axis gets its own scale and zero."""
    levels = 2**bits - 1
    low = weights.amin(dim).clamp_(max=0)
    high = weights.amax(dim).clamp_(min=0)
    if sym:  # a row of only positive weights keeps its zero at the bottom of the range, as in the reference
        high = torch.maximum(low.abs(), high)
        low = torch.where(low < 0, -high, low)
    empty = (low == 0) & (high == 0)
    low = torch.where(empty, -1.0, low)
    high = torch.where(empty, 1.0, high)
    grid = _grid(low, high, levels, sym)
    return _shrink(weights, low, high, grid, sym, dim) if mse else grid


def quantize(weights: torch.Tensor, grid: Grid, dim: int = -1) -> torch.Tensor:
    """The grid value nearest to each weight; `dim` is the axis along which the grid was fitted."""
    scale, zero = grid.scale.unsqueeze(dim), grid.zero.unsqueeze(dim)
    codes = torch.clamp(torch.round(weights / scale) + zero, 0, grid.levels)
    return scale * (codes - zero)


def quantize_groups(weight: torch.Tensor, bits: int, group_size: int | None, *, sym: bool, mse: bool) -> torch.Tensor:
    """Round `weight` [rows, cols] to the nearest values of its own grids: one a row, or one a row and group."""
    rows, cols = weight.shape
    groups = weight.float().reshape(rows, -1, group_size or cols)
    return quantize(groups, fit_grid(groups, bits, sym=sym, mse=mse)).reshape(rows, cols)


def grid_bits(bits: int, cols: int, group_size: int | None, sym: bool) -> float:
    """Stored bits per weight: the code, a 16-bit scale per group, and a zero point of `bits` bits if asymmetric."""
    return bits + (HALF_PRECISION_BITS + (0 if sym else bits)) / (group_size or cols)


def check_group_size(group_size: int | None, cols: int, where: str) -> None:
    """Raise SettingsError when groups do not divide the columns."""
    if group_size is not None and cols % group_size:
        fitting = [size for size in range(2, cols + 1) if cols % size == 0]
        nearest = sorted(sorted(fitting, key=lambda size: abs(size - group_size))[:4])
        raise SettingsError(
            f"group_size: {group_size} does not divide the {cols} inputs of {where}; "
            f"use null (one grid a row) or a divisor such as {', '.join(map(str, nearest))}"
        )


def divide(values: torch.Tensor, number: float) -> torch.Tensor:
    """`values` / `number`, rounded correctly on every device.

    CUDA multiplies by the inverse of a plain number, and 16-bit weights make exact ties between two zero points common
    enough that the last bit of a scale decides codes of a whole group.
    """
    return values / torch.full((), number, dtype=values.dtype, device=values.device)


def _grid(low: torch.Tensor, high: torch.Tensor, levels: int, sym: bool) -> Grid:
    scale = divide(high - low, levels)
    zero = torch.full_like(scale, (levels + 1) / 2) if sym else torch.round(-low / scale)
    return Grid(scale, zero, levels)


def _shrink(weights: torch.Tensor, low: torch.Tensor, high: torch.Tensor, grid: Grid, sym: bool, dim: int) -> Grid:
    best = torch.full_like(grid.scale, float("inf"))
    scale, zero = grid.scale, grid.zero
    for step in range(int(MSE_SHRINK * MSE_STEPS)):
        share = 1 - step / MSE_STEPS
        trial = _grid(share * low, share * high, grid.levels, sym)
        error = (quantize(weights, trial, dim) - weights).abs_().pow_(MSE_NORM).sum(dim)
        better = error < best
        best = torch.where(better, error, best)
        scale = torch.where(better, trial.scale, scale)
        zero = torch.where(better, trial.zero, zero)
    return Grid(scale, zero, grid.levels)
