"""From weights back to the codes and scales of their grids, to the bit.

A checkpoint holds whole codes, one scale a group, and perhaps a zero point, and a loader multiplies them in the type of
the scale. What a solver left in a model is such products already, rounded to the model's type. The grid is found again
from the weights alone, so whatever a method did to them is not believed: a scale of that type counts only when whole
numbers of it are all weights of the group to the bit. Several scales may do (a group of zeros fits any); each gives the
same weights. The hard case is a group that no scale fits, because scales were not rounded to a type that ships.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from methods.lazy import torch

_INTEGER = {2: "int16", 4: "int32"}  # bytes of a float: the integer whose order its positive values have
_NEIGHBOURS = (0, 1, -1)  # in units of the last place: a product was rounded once, and so is its quotient
CHUNK = 2**20  # weights whose grids are found together
TELLING = 8  # of 16-bit weights: a wrong scale that gives all of them is rare enough to be tested on the others


class NotOnGridError(ValueError):
    """Some group of weights is no whole multiple of any scale that the model's type holds."""


@dataclass(frozen=True)
class Codes:
    """A weight [rows, cols] as `scale` · (`codes` − `zero`), computed in the type of `scale`.

    codes: uint8 [rows, cols], 0 … 2^bits − 1. scale [rows, groups] in the model's type. zero: uint8 [rows, groups].
    sym: every zero point is 2^(bits − 1). group_of: int32 [cols], the group of every column; None: groups are
    consecutive columns.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    bits: int
    sym: bool
    group_of: torch.Tensor | None = None

    @property
    def group_size(self) -> int:
        """Columns that share a scale."""
        return self.codes.shape[1] // self.scale.shape[1]

    def weight(self) -> torch.Tensor:
        """The weight [rows, cols] as a loader computes it: one product in the type of the scale."""
        if self.group_of is not None:
            of = self.group_of.to(self.scale.device).long()
            return (self.codes.to(self.scale.dtype) - self.zero[:, of].to(self.scale.dtype)) * self.scale[:, of]
        codes = self.codes.unflatten(1, (self.scale.shape[1], -1)).to(self.scale.dtype)
        return ((codes - self.zero.unsqueeze(2).to(self.scale.dtype)) * self.scale.unsqueeze(2)).flatten(1)


def find_codes(
    weight: torch.Tensor,
    bits: int,
    *,
    sym: bool,
    group_size: int | None,
    group_of: torch.Tensor | None = None,
) -> Codes:
    """The codes of `weight` [rows, cols] on a grid of 2^`bits` levels for every row and `group_size` columns.

    group_of: int32 [cols], which of the groups each column is in; None: groups are consecutive columns. Works on CHUNK
    weights at a time, so that little memory is needed besides the result. Raises NotOnGridError, which counts the
    groups without a grid.
    """
    rows, cols = weight.shape
    size = group_size or cols
    if group_of is not None:
        order = _by_group(group_of, size).to(weight.device)
        found = find_codes(weight[:, order], bits, sym=sym, group_size=size)
        codes = torch.empty_like(found.codes).index_copy_(1, order, found.codes)
        return replace(found, codes=codes, group_of=group_of)
    groups = weight.detach().reshape(-1, size)
    parts = [_search(part, bits, sym) for part in groups.split(max(1, CHUNK // size))]
    codes, scale, zero, missing = (torch.cat(each) for each in zip(*parts, strict=True))
    if count := int(missing.sum()):
        raise NotOnGridError(
            f"{count:,} of {len(groups):,} groups are no whole multiples of a {_name(weight.dtype)} scale"
        )
    return Codes(codes.reshape(rows, cols), scale.reshape(rows, -1), zero.reshape(rows, -1), bits, sym)


def _by_group(group_of: torch.Tensor, size: int) -> torch.Tensor:
    """The columns in the order of their groups. Raises ValueError unless every group has `size` columns."""
    order = torch.argsort(group_of, stable=True)
    if not torch.equal(group_of[order].cpu(), torch.arange(len(order), dtype=group_of.dtype) // size):
        raise ValueError(f"group_of: expected groups 0, 1, ... of {size} columns each")
    return order


def _search(
    groups: torch.Tensor, bits: int, sym: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes [n, size], scales, zero points and what has none (all [n]) of `groups` [n, size].

    A scale spans a whole number of steps, from zero to the largest weight on a symmetric grid and from the smallest to
    the largest on others, so it is one of a few numbers. Those that use the levels up come first: most ranges are. The
    largest weights of a group are asked before all of them are, since they refuse nearly every wrong scale.
    """
    scale = torch.ones(len(groups), dtype=groups.dtype, device=groups.device)
    zero = torch.full((len(groups),), 2 ** (bits - 1), dtype=torch.float32, device=groups.device)
    span, most = _span(groups, bits, sym)
    telling = groups.gather(1, groups.abs().topk(min(TELLING, groups.shape[1])).indices)
    left = torch.nonzero(span != 0).flatten()  # groups of zeros are on every grid
    for steps in range(most, 0, -1):
        for offset in _NEIGHBOURS:
            if not len(left):
                break
            trial = _near(span[left] / steps, groups.dtype, offset)
            likely = torch.nonzero(_fitting(telling[left], trial, bits, sym)[0]).flatten()
            fits, at = _fitting(groups[left[likely]], trial[likely], bits, sym)
            found = likely[fits]
            scale[left[found]], zero[left[found]] = trial[found], at[fits]
            remains = torch.ones_like(left, dtype=torch.bool)
            remains[found] = False
            left = left[remains]
    missing = torch.zeros_like(span, dtype=torch.bool)
    missing[left] = True
    codes = _steps(groups, scale) + zero.unsqueeze(1)
    return codes.to(torch.uint8), scale, zero.to(torch.uint8), missing


def _span(groups: torch.Tensor, bits: int, sym: bool) -> tuple[torch.Tensor, int]:
    """What a whole number of steps spans in every group, float64 [n], and the most steps there can be."""
    low, high = (edge.double() for edge in groups.aminmax(dim=1))
    if sym:
        return torch.maximum(high, -low), 2 ** (bits - 1)
    return high.clamp_min(0) - low.clamp_max(0), 2**bits - 1


def _near(values: torch.Tensor, dtype: torch.dtype, offset: int) -> torch.Tensor:
    """Positive `values` rounded to `dtype`, and from there `offset` representable numbers on; at least the smallest."""
    integer = getattr(torch, _INTEGER[dtype.itemsize])
    return (values.to(dtype).view(integer) + offset).clamp_min(1).view(dtype)


def _fitting(groups: torch.Tensor, scale: torch.Tensor, bits: int, sym: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Which `groups` [n, size] are multiples of their `scale` [n] within the levels, and the zero points [n]."""
    steps = _steps(groups, scale)
    exact = _gives(steps, scale, groups).all(1) & torch.isfinite(scale)
    low, high = steps.amin(1).clamp(max=0), steps.amax(1).clamp(min=0)
    if sym:
        half = 2 ** (bits - 1)
        return exact & (low >= -half) & (high < half), torch.full_like(low, half)
    return exact & (high - low < 2**bits), -low


def _steps(groups: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The whole number of steps of each weight [n, size]: of those that give the weight the one nearest to zero.

    A product of more than 128 steps in bfloat16 may be rounded by half a step, so the nearest number can miss by one,
    and two numbers can give the same weight, of which the farther one may lie beyond the levels.
    """
    nearest = torch.round(groups.float() / scale.float().unsqueeze(1))
    if groups.dtype != torch.bfloat16:
        return nearest
    found = nearest
    for number in (nearest + nearest.sign(), nearest, nearest - nearest.sign()):
        found = torch.where(_gives(number, scale, groups), number, found)
    return found


def _gives(steps: torch.Tensor, scale: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Whether `steps` times the scale is the weight, for each of them [n, size], rounded once as a loader does."""
    return (steps * scale.float().unsqueeze(1)).to(groups.dtype) == groups


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
