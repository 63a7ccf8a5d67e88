"""From weights back to the codes and scales of their grids, to the bit.

A checkpoint holds whole codes, one scale a group, and perhaps a zero point, and a loader multiplies them in the type of
the scale. What a solver left in a model is such products already, rounded to the model's type. The grid is found again
from the weights alone, so whatever a method did to them is not believed: a scale of that type counts only when whole
numbers of it are all weights of the group to the bit. Several scales may do (a group of zeros fits any); each gives the
same weights. The hard case is a group that no scale fits, because scales were not rounded to a type that ships.
"""

from __future__ import annotations

from dataclasses import dataclass

from methods.lazy import torch

_INTEGER = {2: "int16", 4: "int32"}  # bytes of a float: the integer whose order its positive values have
_NEIGHBOURS = (0, 1, -1)  # in units of the last place: a product was rounded once, and so is its quotient


class NotOnGridError(ValueError):
    """Some group of weights is no whole multiple of any scale that the model's type holds."""


@dataclass(frozen=True)
class Codes:
    """A weight [rows, cols] as `scale` · (`codes` − `zero`), computed in the type of `scale`.

    codes: uint8 [rows, cols], 0 … 2^bits − 1. scale [rows, groups] in the model's type. zero: uint8 [rows, groups].
    sym: every zero point is 2^(bits − 1).
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    bits: int
    sym: bool

    @property
    def group_size(self) -> int:
        """Columns that share a scale."""
        return self.codes.shape[1] // self.scale.shape[1]

    def weight(self) -> torch.Tensor:
        """The weight [rows, cols] as a loader computes it: one product in the type of the scale."""
        codes = self.codes.unflatten(1, (self.scale.shape[1], -1)).to(self.scale.dtype)
        return ((codes - self.zero.unsqueeze(2).to(self.scale.dtype)) * self.scale.unsqueeze(2)).flatten(1)


def find_codes(weight: torch.Tensor, bits: int, *, sym: bool, group_size: int | None) -> Codes:
    """The codes of `weight` [rows, cols] on a grid of 2^`bits` levels for every row and `group_size` columns.

    Raises NotOnGridError, which counts the groups without a grid.
    """
    rows, cols = weight.shape
    stored = weight.detach().reshape(rows, -1, group_size or cols)
    groups = stored.flatten(0, 1)
    scale = torch.ones(len(groups), dtype=weight.dtype, device=weight.device)
    zero = torch.full((len(groups),), 2 ** (bits - 1), dtype=torch.int32, device=weight.device)
    top = groups.float().abs().amax(1)
    left = torch.nonzero(top > 0).flatten()  # groups of zeros are on every grid
    for steps in _likely_first(bits, sym):
        for offset in _NEIGHBOURS:
            if not len(left):
                break
            trial = _near(top[left] / steps, weight.dtype, offset)
            fits, at = _fitting(groups[left], trial, bits, sym)
            scale[left[fits]], zero[left[fits]] = trial[fits], at[fits]
            left = left[~fits]
    if len(left):
        raise NotOnGridError(
            f"{len(left):,} of {len(groups):,} groups are no whole multiples of a {_name(weight.dtype)} scale"
        )
    codes = _steps(groups, scale) + zero.unsqueeze(1)
    return Codes(
        codes.to(torch.uint8).reshape(rows, cols),
        scale.reshape(rows, -1),
        zero.to(torch.uint8).reshape(rows, -1),
        bits,
        sym,
    )


def _likely_first(bits: int, sym: bool) -> list[int]:
    """Steps that the largest weight may lie from zero: most ranges are used up."""
    most = 2 ** (bits - 1) if sym else 2**bits - 1
    return list(range(most, 0, -1))


def _near(values: torch.Tensor, dtype: torch.dtype, offset: int) -> torch.Tensor:
    """Positive `values` rounded to `dtype`, and from there `offset` representable numbers on; at least the smallest."""
    integer = getattr(torch, _INTEGER[dtype.itemsize])
    return (values.to(dtype).view(integer) + offset).clamp_min(1).view(dtype)


def _fitting(groups: torch.Tensor, scale: torch.Tensor, bits: int, sym: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Which `groups` [n, size] are multiples of their `scale` [n] within the levels, and the zero points [n]."""
    steps = _steps(groups, scale)
    exact = (steps.to(scale.dtype) * scale.unsqueeze(1) == groups).all(1) & torch.isfinite(scale)
    low, high = steps.amin(1).clamp(max=0), steps.amax(1).clamp(min=0)
    if sym:
        half = 2 ** (bits - 1)
        return exact & (low >= -half) & (high < half), torch.full_like(low, half).int()
    fits = exact & (high - low < 2**bits)
    return fits, torch.where(fits, -low, 0).int()


def _steps(groups: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The whole number of steps of each weight [n, size]: of those that give the weight the one nearest to zero.

    A product of more than 128 steps in bfloat16 may be rounded by half a step, so the nearest number can miss by one,
    and two numbers can give the same weight, of which the farther one may lie beyond the levels.
    """
    nearest = torch.round(groups.float() / scale.float().unsqueeze(1))
    if groups.dtype != torch.bfloat16:
        return nearest
    step = scale.unsqueeze(1)
    found = nearest
    for number in (nearest + nearest.sign(), nearest, nearest - nearest.sign()):
        found = torch.where(number.to(step.dtype) * step == groups, number, found)
    return found


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
