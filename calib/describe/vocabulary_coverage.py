"""Share of the vocabulary that occurs in a set. Grows with the set, so compare sets of one size."""

from __future__ import annotations

import numpy as np

from calib.descriptor import Described, register


@register("vocabulary_coverage")
def vocabulary_coverage(described: Described) -> float | None:
    """0 to 1; None when the size of the vocabulary is not known."""
    if described.vocabulary is None:
        return None
    return len(np.unique(described.tokens)) / described.vocabulary
