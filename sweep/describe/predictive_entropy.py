"""Entropy of the model's predictions over the set, in nats: how open it finds what comes next, whatever came."""

from __future__ import annotations

from sweep.describe.base import SET, Described, Numbers, register


@register("predictive_entropy")
def predictive_entropy(described: Described) -> Numbers:
    """The mean over all places, 0 to the logarithm of the vocabulary."""
    return {SET: float(described.likelihood.entropy.mean())}
