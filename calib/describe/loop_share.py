"""Share of the 4-grams of a window that it has held before: how much of generated text goes round in circles."""

from __future__ import annotations

import numpy as np

from calib.descriptor import Described, register
from calib.ngrams import token_ngrams


@register("loop_share")
def loop_share(described: Described) -> float:
    """0 to 1, over all windows; 0 where they have fewer than four tokens."""
    hashes, owners = token_ngrams(list(described.tokens), 4)
    if not len(hashes):
        return 0.0
    return 1 - len(np.unique(np.stack([hashes, owners.astype(np.uint64)]), axis=1).T) / len(hashes)
