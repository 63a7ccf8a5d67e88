"""Error of the set's weights on a target's inputs, from the first blocks: see `methods/target_error.py`."""

from __future__ import annotations

from methods.target_error import changes_the_whole, target_error
from sweep.describe.base import Described, Numbers, register

BLOCKS = 2  # of the model: the inputs of the second have met compressed weights already


@register("target_error")
def first_blocks(described: Described) -> Numbers:
    """By target, the mean over tokens of each one's relative error; nothing where no method is given, or one that
    turns the hidden states."""
    if described.method is None or changes_the_whole(described.method) or not described.targets:
        return {}
    found = target_error(
        described.model,
        described.method,
        None if described.method.data_free else described.tokens,
        described.targets,
        token_weights=None if described.method.data_free else described.weights,
        blocks=min(BLOCKS, described.blocks),
        batch_size=described.batch_size,
    )
    return {name: errors.by_token[-1] for name, errors in found.items()}
