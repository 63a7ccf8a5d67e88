"""Integer grids: scale and zero point of a row or of a group of columns, in the dialect of the GPTQ code.

A grid has 2^bits levels between the smallest and the largest weight, and zero is always one of them, so a pruned weight
stays exactly zero. Asymmetric grids round their zero point to an integer; symmetric ones put it in the middle. `mse`
searches for the shrinking of the range that minimises Σ|ŵ−w|^2.4 (Frantar et al. 2022, reference code). A scale is
rounded to the type that it is stored in before any code is chosen, so that what is measured can be shipped. The hard
cases: all-zero weights get a grid from -1 to 1, weights too small for a 16-bit scale get the smallest one there is, and
weights too large for it make the grid infinite, which is an error (`layer_reports`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from calib.settings import SettingsError
from methods.lazy import torch

ScaleDtype: TypeAlias = Literal["float32", "float16", "bfloat16"]
SymRule: TypeAlias = Literal["usual", "reference"]

SCALE_BITS: dict[ScaleDtype, int] = {"float32": 32, "float16": 16, "bfloat16": 16}
SMALLEST_STORED: dict[ScaleDtype, float] = {"float32": 2.0**-126, "float16": 2.0**-24, "bfloat16": 2.0**-126}
MSE_NORM = 2.4
MSE_STEPS = 100
MSE_SHRINK = 0.8


@dataclass(frozen=True)
class GridRule:
    """How a grid is fitted and stored; the settings of the same names are explained in `methods/families/grids.py`."""

    bits: int
    sym: bool = False
    mse: bool = False
    sym_rule: SymRule = "usual"
    scale_dtype: ScaleDtype = "float32"

    @property
    def levels(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    def stored_bits(self, cols: int, group_size: int | None) -> float:
        """Stored bits per weight: the code, a scale per group, and a zero point of `bits` bits if asymmetric."""
        grid = SCALE_BITS[self.scale_dtype] + (0 if self.sym else self.bits)
        return self.bits + grid / (group_size or cols)


@dataclass(frozen=True)
class Grid:
    """Levels scale · (0 … levels − zero). `scale` and `zero` have the shape of the weights without the fitted axis."""

    scale: torch.Tensor
    zero: torch.Tensor
    levels: int  # largest code, 2^bits − 1


def fit_grid(weights: torch.Tensor, rule: GridRule, dim: int = -1) -> Grid:
    """Fit a grid to the weights along `dim`; every other axis gets its own scale and zero."""
    low = weights.amin(dim).clamp_(max=0)
    high = weights.amax(dim).clamp_(min=0)
    if rule.sym:
        high = torch.maximum(low.abs(), high)
        # the reference keeps half of the range where no weight is negative, and clips at 7/15 of the largest (4 bits)
        low = -high if rule.sym_rule == "usual" else torch.where(low < 0, -high, low)
    empty = (low == 0) & (high == 0)
    low = torch.where(empty, -1.0, low)
    high = torch.where(empty, 1.0, high)
    grid = _grid(low, high, rule)
    return _shrink(weights, low, high, grid, rule, dim) if rule.mse else grid


def quantize(weights: torch.Tensor, grid: Grid, dim: int = -1) -> torch.Tensor:
    """The grid value nearest to each weight; `dim` is the axis along which the grid was fitted."""
    scale, zero = grid.scale.unsqueeze(dim), grid.zero.unsqueeze(dim)
    codes = torch.clamp(torch.round(weights / scale) + zero, 0, grid.levels)
    return scale * (codes - zero)


def quantize_groups(weight: torch.Tensor, rule: GridRule, group_size: int | None) -> torch.Tensor:
    """Round `weight` [rows, cols] to the nearest values of its own grids: one a row, or one a row and group."""
    rows, cols = weight.shape
    groups = weight.float().reshape(rows, -1, group_size or cols)
    return quantize(groups, fit_grid(groups, rule)).reshape(rows, cols)


def describe_rule(rule: GridRule, group_size: int | None) -> str:
    """`4-bit g128 sym`."""
    parts = [f"{rule.bits}-bit"]
    if group_size is not None:
        parts.append(f"g{group_size}")
    if rule.sym:
        parts.append("sym" if rule.sym_rule == "usual" else f"sym-{rule.sym_rule}")
    return " ".join(parts + ["mse"] * rule.mse)


def as_stored(values: torch.Tensor, dtype: ScaleDtype) -> torch.Tensor:
    """float32 `values` rounded to what `dtype` holds; beyond its range they are infinite."""
    return values if dtype == "float32" else values.to(getattr(torch, dtype)).float()


def stored_scale(scale: torch.Tensor, dtype: ScaleDtype) -> torch.Tensor:
    """A scale as stored, at least the smallest one that can be divided by."""
    return as_stored(scale, dtype).clamp_min(SMALLEST_STORED[dtype])


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


def _grid(low: torch.Tensor, high: torch.Tensor, rule: GridRule) -> Grid:
    levels = rule.levels
    scale = stored_scale(divide(high - low, levels), rule.scale_dtype)
    if rule.sym:
        return Grid(scale, torch.full_like(scale, (levels + 1) / 2), levels)
    # a scale that was rounded down can put the zero point one above the largest code
    return Grid(scale, torch.round(-low / scale).clamp_(0, levels), levels)


def _shrink(weights: torch.Tensor, low: torch.Tensor, high: torch.Tensor, grid: Grid, rule: GridRule, dim: int) -> Grid:
    best = torch.full_like(grid.scale, float("inf"))
    scale, zero = grid.scale, grid.zero
    for step in range(int(MSE_SHRINK * MSE_STEPS)):
        share = 1 - step / MSE_STEPS
        trial = _grid(share * low, share * high, rule)
        error = (quantize(weights, trial, dim) - weights).abs_().pow_(MSE_NORM).sum(dim)
        better = error < best
        best = torch.where(better, error, best)
        scale = torch.where(better, trial.scale, scale)
        zero = torch.where(better, trial.zero, zero)
    return Grid(scale, zero, grid.levels)
