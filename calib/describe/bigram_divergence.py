"""Jensen-Shannon divergence of the frequencies of token pairs from those of a target text, in bits.

Sees phrases where the divergence of single tokens sees words alone; near 1 for small sets, since most pairs are rare.
"""

from __future__ import annotations

from calib.descriptor import Described, divergence, register
from calib.ngrams import token_ngrams


@register("bigram_divergence")
def bigram_divergence(described: Described) -> float | None:
    """0 to 1; None without a target."""
    if described.target is None:
        return None
    ours, target = (token_ngrams(list(tokens), 2)[0] for tokens in (described.tokens, described.target))
    return divergence(ours, target)
