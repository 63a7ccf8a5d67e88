"""Type/token ratio: different tokens a token. Falls as a set grows, so compare sets of one size."""

from __future__ import annotations

import numpy as np

from calib.descriptor import Described, register


@register("type_token_ratio")
def type_token_ratio(described: Described) -> float:
    """0 to 1."""
    return len(np.unique(described.tokens)) / described.tokens.size
