"""How far the set's activations are from a target's: what domain labels stand for, seen by the model itself.

Means over windows of the sizes |x| of every channel of some blocks' inputs, their difference in standard deviations of
the target's windows, squared, and averaged over channels and blocks. The hard case is the few channels that are
hundreds of times as large as others: in standard deviations they count as one channel each.
"""

from __future__ import annotations

import numpy as np

from sweep.describe.base import Described, Numbers, register
from sweep.features.look import BlockInputs


@register("activation_distance")
def activation_distance(described: Described) -> Numbers:
    """By target: 0 where all means agree."""
    inputs = described.seen.inputs
    assert inputs is not None
    return {name: distance(inputs, target) for name, target in described.target_inputs.items()}


def distance(ours: BlockInputs, target: BlockInputs) -> float:
    """The mean of ((ours - target's) / target's spread over windows)²; channels without a spread are left out."""
    one, other = ours.sizes.astype(np.float64), target.sizes.astype(np.float64)
    spread = other.std(axis=0)
    known = spread > 0
    apart = (one.mean(axis=0) - other.mean(axis=0))[known] / spread[known]
    return float((apart**2).mean()) if known.any() else 0.0
