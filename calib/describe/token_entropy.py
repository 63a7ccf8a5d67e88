"""Entropy of the token frequencies, in bits: how far a set is from saying the same token again and again.

Grows a little with the number of tokens; at most the logarithm of the vocabulary.
"""

from __future__ import annotations

from calib.descriptor import Described, distribution, entropy, register


@register("token_entropy")
def token_entropy(described: Described) -> float:
    """Bits."""
    return entropy(distribution(described.tokens))
