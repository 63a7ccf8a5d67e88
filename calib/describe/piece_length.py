"""Mean length of the pieces of documents in a set, in tokens: long where windows lie inside long documents."""

from __future__ import annotations

from calib.descriptor import Described, register


@register("piece_length")
def piece_length(described: Described) -> float | None:
    """Tokens; None when the pieces are not known."""
    lengths = [length for window in described.pieces for length in window]
    return sum(lengths) / len(lengths) if lengths else None
