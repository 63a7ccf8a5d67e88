"""NF4 (Dettmers et al. 2023, QLoRA, arXiv:2305.14314): every weight takes the nearest of sixteen uneven levels.

The levels are quantiles of a normal distribution, scaled by the largest weight of a block. Nothing is calibrated, so
this is the null control of everybody who loads a model in 4 bits with bitsandbytes; codes, scales and weights are those
of that package. Blocks are cut from the flattened matrix, so a block may reach from one row into the next.
"""

from __future__ import annotations

from typing import Any, Literal

from calib.settings import settings
from methods.base import WeightMethod, register
from methods.lazy import torch
from methods.numerics.fourbit import FourBitRule, QuantType, block_weight, largest_values, quantize_blocks
from methods.outcome import CompressedWeight


@register("nf4")
@settings
class NF4(WeightMethod[None]):
    """quant_type: the levels, `nf4`, or `fp4` (a float of two exponent bits). block_size: consecutive weights of the
    flattened matrix that share a scale. double_quant: scales are rounded themselves, to 8 bits (4.13 instead of 4.5
    bits a weight).
    """

    quant_type: QuantType = "nf4"
    block_size: Literal[32, 64, 128, 256, 512, 1024, 2048, 4096] = 64
    double_quant: bool = False

    @property
    def rule(self) -> FourBitRule:
        """How blocks are cut and stored."""
        return FourBitRule(self.quant_type, self.block_size, self.double_quant)

    def describe(self) -> str:
        return f"{self.quant_type.upper()} g{self.block_size}{' double' if self.double_quant else ''}"

    def nominal(self) -> dict[str, Any]:
        return {"bits": 4.0, "sparsity": None, "pattern": None}

    def compress_weight(
        self, weight: torch.Tensor, statistic: None, *, pruned: torch.Tensor | None = None
    ) -> CompressedWeight:
        # zero is a level of every block, so pruned weights stay zero
        codes, fitted = quantize_blocks(weight, self.rule)
        rounded = block_weight(codes, largest_values(fitted), self.rule, tuple(weight.shape))
        rounded = rounded + 0.0  # no negative zeros
        return CompressedWeight(rounded, bits=self.rule.stored_bits(weight.numel()), fitted=fitted)
