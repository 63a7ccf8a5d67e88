"""Share of the 13-grams of a set that it holds more than once: boilerplate, loops, repeated documents."""

from __future__ import annotations

import numpy as np

from calib.descriptor import Described, register
from calib.ngrams import TOKENS, token_ngrams


@register("duplicate_share")
def duplicate_share(described: Described) -> float:
    """0 to 1; 0 where windows have fewer tokens than an n-gram."""
    hashes, _ = token_ngrams(list(described.tokens), TOKENS)
    if not len(hashes):
        return 0.0
    return 1 - len(np.unique(hashes)) / len(hashes)
