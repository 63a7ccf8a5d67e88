"""How a question with many candidates is scored: is the right one the likeliest, and at which rank does it stand?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def rank(doc: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """`acc` and the reciprocal of the right answer's rank by log-likelihood; candidates as likely stand before it."""
    scores = [score for score, _ in results]
    right = scores[doc["gold"]]
    above = sum(score >= right for place, score in enumerate(scores) if place != doc["gold"])
    return {"acc": float(above == 0), "reciprocal_rank": 1.0 / (1 + above)}
