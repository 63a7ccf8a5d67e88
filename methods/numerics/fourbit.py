"""Sixteen uneven levels a block of weights: NF4 and FP4 as bitsandbytes has them (Dettmers et al. 2023, section 3).

The weight is read as one long row and cut into blocks; a block is its largest absolute value times levels between -1
and 1. NF4's levels are quantiles of a normal distribution with an exact zero, FP4's those of a float of two exponent
bits. Double quantization rounds the largest values themselves: less their mean, in blocks of 256, to the 8-bit levels
of Dettmers et al. 2022 (arXiv:2110.02861). The hard cases: a weight half-way between two levels takes the lower one, as
the original does, and a block of zeros has a largest value of zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from methods.lazy import torch
from methods.outcome import FittedBlocks

QuantType: TypeAlias = Literal["nf4", "fp4"]

NESTED_BLOCK = 256  # largest values that share a scale of their own (bitsandbytes)
SMALLEST = 1e-38  # of a largest value that is divided by (bitsandbytes)
LEVELS: dict[QuantType, tuple[float, ...]] = {  # in the order of their codes
    "nf4": (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ),
    "fp4": (
        *(0.0, 0.0052083334885537624, 0.6666666865348816, 1.0),
        *(0.3333333432674408, 0.5, 0.1666666716337204, 0.25),
        *(0.0, -0.0052083334885537624, -0.6666666865348816, -1.0),
        *(-0.3333333432674408, -0.5, -0.1666666716337204, -0.25),
    ),
}


@dataclass(frozen=True)
class FourBitRule:
    """How blocks are cut and stored; the settings of the same names are explained in `methods/nf4.py`."""

    quant_type: QuantType = "nf4"
    block_size: int = 64
    double_quant: bool = False

    def stored_bits(self, weights: int) -> float:
        """Stored bits per weight of a matrix of so many: the code, and a share of its block's largest value."""
        blocks = -(-weights // self.block_size)
        grids = 32 * blocks
        if self.double_quant:
            grids = 8 * blocks + 32 * -(-blocks // NESTED_BLOCK) + 32  # and the mean
        return 4 + grids / weights


def quantize_blocks(weight: torch.Tensor, rule: FourBitRule) -> tuple[torch.Tensor, FittedBlocks]:
    """The codes of `weight`, uint8 [weights], and the largest values of its blocks, rounded where the rule says so.

    Codes are chosen before the largest values are rounded, as the original does.
    """
    largest = _blocks(weight.float(), rule.block_size).abs().amax(1)
    fitted = _round_largest(largest) if rule.double_quant else FittedBlocks(largest)
    return block_codes(weight, largest, rule), fitted


def largest_values(fitted: FittedBlocks) -> torch.Tensor:
    """The largest values as a loader has them, float32 [blocks]."""
    if fitted.nested is None or fitted.offset is None:
        return fitted.largest
    levels = nested_levels().to(fitted.largest.device)[fitted.largest.long()]
    scales = fitted.nested.repeat_interleave(NESTED_BLOCK)[: len(levels)]
    return levels * scales + fitted.offset


def block_codes(weight: torch.Tensor, largest: torch.Tensor, rule: FourBitRule) -> torch.Tensor:
    """The codes of the nearest levels, uint8 [weights], with these `largest` values [blocks]."""
    blocks = _blocks(weight.float(), rule.block_size)
    levels = torch.tensor(LEVELS[rule.quant_type], device=weight.device)
    return nearest((blocks * _inverse(largest)).clamp_(-1, 1), levels).flatten()[: weight.numel()]


def block_weight(codes: torch.Tensor, largest: torch.Tensor, rule: FourBitRule, shape: tuple[int, ...]) -> torch.Tensor:
    """The weight of these `codes` [weights] as a loader computes it, float32 of `shape`, before it is rounded once."""
    levels = torch.tensor(LEVELS[rule.quant_type], device=codes.device)[codes.long()]
    return (_blocks(levels, rule.block_size) * largest.unsqueeze(1)).flatten()[: codes.numel()].reshape(shape)


def nearest(values: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """The code of the level nearest to each value, uint8; half-way between two it is the lower one's."""
    order = levels.argsort(stable=True)
    middles = (levels[order[:-1]] + levels[order[1:]]) / 2
    return order.to(torch.uint8)[torch.bucketize(values, middles, out_int32=True)]


def nested_levels() -> torch.Tensor:
    """The 256 levels between -1 and 1 that largest values are rounded to, float32, rising.

    A float with as many exponent bits as it has leading zeros: seven decades, of which decade i has 2^i fractions, the
    middles of even parts from 0.1 to 1; zero and one beside them.
    """
    found = [torch.zeros(1), torch.ones(1)]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float32)
        means = (edges[:-1] + edges[1:]) / 2
        # in the order of the original, whose products are rounded to float32 one by one
        found += [10 ** (decade - 6) * means, -(10 ** (decade - 6)) * means]
    return torch.cat(found).sort().values


def _round_largest(largest: torch.Tensor) -> FittedBlocks:
    """The largest values [blocks], less their mean, as 8-bit codes with a scale for every 256 of them."""
    offset = largest.mean()
    rest = _blocks(largest - offset, NESTED_BLOCK)
    nested = rest.abs().amax(1)
    codes = nearest(rest * _inverse(nested), nested_levels().to(largest.device))
    return FittedBlocks(codes.flatten()[: len(largest)], nested, offset)


def _blocks(values: torch.Tensor, size: int) -> torch.Tensor:
    """`values` as [blocks, size], the last block filled with zeros."""
    flat = values.reshape(-1)
    return torch.nn.functional.pad(flat, (0, -len(flat) % size)).view(-1, size)


def _inverse(largest: torch.Tensor) -> torch.Tensor:
    """What a block [blocks, size] is multiplied by to lie between -1 and 1, [blocks, 1]."""
    # rounded largest values can fall below zero where the smallest of them are
    size = largest.abs().clamp_min(SMALLEST)
    return (1.0 / torch.where(largest < 0, -size, size)).unsqueeze(1)
