"""Min-K%++ (https://arxiv.org/abs/2404.02936) of the set: how much it is like what the model was trained on.

The best single predictor of pruned models in https://arxiv.org/abs/2410.17711.
"""

from __future__ import annotations

from sweep.describe.base import SET, Described, Numbers, register


@register("min_k_plus")
def min_k_plus(described: Described) -> Numbers:
    """The mean over windows, of their least likely fifth of tokens; larger means more alike."""
    return {SET: float(described.likelihood.min_k_plus().mean())}
