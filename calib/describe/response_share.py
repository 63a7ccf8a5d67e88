"""Share of the tokens of a set that an assistant writes: what is left of the answers in conversations and traces.

Windows that cut long prompts may hold no answer at all, which no other number of a set shows.
"""

from __future__ import annotations

from calib.descriptor import Described, register


@register("response_share")
def response_share(described: Described) -> float | None:
    """0 to 1; None where the set does not tell which tokens are a response."""
    return None if described.responses is None else float(described.responses.mean())
