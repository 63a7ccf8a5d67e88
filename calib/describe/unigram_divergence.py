"""Jensen-Shannon divergence of the token frequencies from those of a target text, in bits: 0 alike, 1 disjoint."""

from __future__ import annotations

from calib.descriptor import Described, divergence, register


@register("unigram_divergence")
def unigram_divergence(described: Described) -> float | None:
    """0 to 1; None without a target."""
    return None if described.target is None else divergence(described.tokens, described.target)
