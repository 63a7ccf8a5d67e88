"""From SpQR's fitted grids and the weights that it left to codes and outliers, to the bit.

A solver hands over the scales and zero points that it fitted (`FittedGroups`), because nobody finds real numbers in two
levels again from sixteen weights that were rounded to the model's type. The codes of the weights are found again, and
not believed: a code counts only when it gives the weight that is in the model to the bit, and every weight that no code
gives is kept as an outlier, as the solver's own outliers are. So what is stored is always the model; wrong grids would
show as more outliers than the solver counted. Rows are taken a few at a time, so that little memory is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from methods.lazy import torch
from methods.numerics.codes import CHUNK
from methods.numerics.spqr import SMALLEST_SCALE, RoundedStatistics, SpQRRule, round_statistics
from methods.outcome import FittedGroups

_NEIGHBOURS = (0, 1, -1)  # the model's type rounded the product, so the nearest code can miss by one


@dataclass(frozen=True)
class SpQRCodes:
    """A weight [rows, cols] in SpQR's own terms: (`codes` − zero) · scale in float32, rounded to the type of `values`.

    codes: uint8 [rows, cols], inputs as they stand. scale, zero: group after group and in each row after row, as
    numbers (float32 [groups · rows]) or rounded themselves. order: the inputs in the order of the groups; None: as they
    stand. Outliers keep their `values` [n], at `places` [n] of the flattened weight, rising.
    """

    codes: torch.Tensor
    scale: torch.Tensor | RoundedStatistics
    zero: torch.Tensor | RoundedStatistics
    order: torch.Tensor | None
    places: torch.Tensor
    values: torch.Tensor

    def weight(self) -> torch.Tensor:
        """The weight [rows, cols] in the type of `values`."""
        rows, cols = self.codes.shape
        result = torch.empty(rows, cols, dtype=self.values.dtype, device=self.codes.device)
        for part, scale, zero in _by_rows(rows, cols, self.scale, self.zero, self.order):
            result[part] = _product(self.codes[part].float(), scale, zero, result.dtype)
        result.view(-1)[self.places] = self.values
        return result


def spqr_codes(weight: torch.Tensor, fitted: FittedGroups, rule: SpQRRule) -> SpQRCodes:
    """The codes of `weight` [rows, cols], as it is in the model, on the grids that a solver `fitted` under `rule`."""
    scale, zero = fitted.scale.flatten(), fitted.zero.flatten()
    scales = _rounded(scale, rule.scale_bits, rule)
    zeros = _rounded(zero, rule.quantized_zero_bits, rule)
    rows, cols = weight.shape
    codes = torch.empty(rows, cols, dtype=torch.uint8, device=weight.device)
    outliers = torch.empty(rows, cols, dtype=torch.bool, device=weight.device)
    for part, steps, offsets in _by_rows(rows, cols, scales, zeros, fitted.order):
        stored = weight[part]
        nearest = torch.round(stored.float() / steps + offsets).clamp_(0, rule.levels)
        found, left = nearest, torch.ones_like(stored, dtype=torch.bool)
        for offset in _NEIGHBOURS:
            trial = (nearest + offset).clamp_(0, rule.levels)
            gives = left & _same_bits(_product(trial, steps, offsets, stored.dtype), stored)
            found = torch.where(gives, trial, found)
            left &= ~gives
        codes[part], outliers[part] = found.to(torch.uint8), left
    places = outliers.view(-1).nonzero().flatten()
    values = weight.reshape(-1)[places]
    return SpQRCodes(codes, scales, zeros, fitted.order, places, values)


def _rounded(values: torch.Tensor, bits: int | None, rule: SpQRRule) -> torch.Tensor | RoundedStatistics:
    """Statistics as the rule stores them; blocks of rows never reach over a group, whose rows they divide."""
    return values if bits is None else round_statistics(values, bits, rule.statistics_group, rule.scale_dtype)


def _by_rows(
    rows: int,
    cols: int,
    scale: torch.Tensor | RoundedStatistics,
    zero: torch.Tensor | RoundedStatistics,
    order: torch.Tensor | None,
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """A few rows at a time, with the scale and the zero point of each of their weights."""
    scales, zeros = (
        (each.values() if isinstance(each, RoundedStatistics) else each).view(-1, rows).T for each in (scale, zero)
    )  # [rows, groups]
    place = torch.arange(cols, device=scales.device)
    if order is not None:
        place = torch.empty_like(place).index_copy_(0, order.long(), place)
    group = place // (cols // scales.shape[1])
    step = max(1, CHUNK // cols)
    for first in range(0, rows, step):
        part = slice(first, first + step)
        yield part, scales[part].clamp_min(SMALLEST_SCALE)[:, group], zeros[part][:, group]


def _product(codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What the solver computes of codes, rounded to `dtype`; it leaves no negative zeros."""
    return ((codes - zero) * scale).add_(0.0).to(dtype)


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return one.contiguous().view(integer) == other.contiguous().view(integer)
