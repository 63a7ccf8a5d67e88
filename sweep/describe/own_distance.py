"""How far the set's activations are from those of text that the model writes itself: the likeness without a target.

The same number as `activation_distance`, with the model's own samples in the place of the target.
"""

from __future__ import annotations

from sweep.describe.activation_distance import distance
from sweep.describe.base import SET, Described, Numbers, register


@register("own_distance")
def own_distance(described: Described) -> Numbers:
    """0 where all means agree; nothing where the model wrote no text."""
    if described.own is None:
        return {}
    inputs = described.seen.inputs
    assert inputs is not None
    return {SET: distance(inputs, described.inputs_of(described.own))}
