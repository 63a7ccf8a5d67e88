"""SmoothQuant (Xiao et al. 2022, arXiv:2211.10438) as a transform of the weights, to be used before GPTQ or RTN.

Inputs with outliers are divided by s_j = max|X_j|^α / max_i|W_ij|^(1−α), and the weights' columns are multiplied by it;
the division moves into the norm before them. Nothing is quantized here: the model computes what it did, and the next
step of the composition finds weights and inputs of more even size. Calibration enters by the largest |X_j| alone.
"""

from __future__ import annotations

from pydantic import Field

from calib.settings import settings
from methods.base import register
from methods.families.scaling import ScalingMethod
from methods.inputs.norms import Magnitudes
from methods.inputs.telemetry import Replacement, measured
from methods.lazy import torch
from methods.outcome import CompressedWeight, CompressionError, Measurement
from methods.protocols import BlockWork

SMALLEST = 1e-5


@register("smoothquant")
@settings
class SmoothQuant(ScalingMethod):
    """alpha: how much of the inputs' size moves into the weights, 0.5 in the paper (0.8 to 0.85 for LLaMA)."""

    alpha: float = Field(default=0.5, ge=0, le=1)

    def describe(self) -> str:
        return f"SmoothQuant α {self.alpha:g}"

    def compress_block(self, job: BlockWork) -> dict[str, Measurement]:
        dense = {linear.name: linear.weight.clone() for linear in job.linears}
        groups, found = self.groups(job, job.collect(Magnitudes))
        if not any(group.foldable for group in groups):
            raise CompressionError("smoothing needs a norm whose output only these linears read; there is none")
        for group in groups:
            scale = torch.ones(group.statistic.cols, device=group.linears[0].weight.device)
            if group.foldable:
                scale = self.scales(group.statistic.largest, [linear.weight for linear in group.linears])
                group.apply(scale)
            weights = [dense[linear.name] for linear in group.linears]
            replaced = [
                Replacement(linear.name, weight, linear.weight.float() / scale, CompressedWeight(weight))
                for linear, weight in zip(group.linears, weights, strict=True)
            ]
            found |= measured(replaced, group.statistic)
        return found

    def scales(self, largest: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
        """s [cols]; inputs that are always zero keep a scale of one."""
        columns = torch.stack([weight.float().abs().amax(0) for weight in weights]).amax(0).clamp_min(SMALLEST)
        scale = (largest.clamp_min(SMALLEST).pow(self.alpha) / columns.pow(1 - self.alpha)).clamp_min(SMALLEST)
        return torch.where(largest > 0, scale, 1.0)
