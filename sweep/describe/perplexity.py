"""The model's perplexity of the set: how surprising it is. Which way that helps depends on what the model is for."""

from __future__ import annotations

import numpy as np

from sweep.describe.base import SET, Described, Numbers, register


@register("perplexity")
def perplexity(described: Described) -> Numbers:
    """exp of the mean loss over all predictions."""
    return {SET: float(np.exp(-described.likelihood.log_probs.mean(dtype=np.float64)))}
