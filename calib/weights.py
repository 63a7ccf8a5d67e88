"""How often each token of a window counts in what a method knows of its inputs: weights of length, and parts of traces.

Length (https://arxiv.org/abs/2602.07465): every scale l gives each window, cut to its first l tokens, a share of 1 / l.
Attention is causal, so the first l positions of a window are what a window of l tokens would be, and one pass over the
whole windows gives the sum over all scales: token t, counted from 1, counts once for each scale that reaches it.

Part: of a conversation or a trace the tokens of the prompt or of the response alone count, while all of them are read,
so a response stands after its prompt. The hard case is a set in which no token counts, which is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from calib.settings import SettingsError

Part = Literal["both", "prompt", "response"]


def token_weights(
    seqlen: int, scales: Sequence[int] | None = None, part: Part = "both", responses: np.ndarray | None = None
) -> np.ndarray | None:
    """How often each token of a set counts, by the lengths and the part together; None where each counts once.

    `responses` (nsamples, seqlen), bool, which a part needs; (seqlen,) or (nsamples, seqlen), float64. Raises
    SettingsError.
    """
    of_length = None if scales is None else length_weights(seqlen, scales)
    if part == "both":
        return of_length
    if responses is None:
        raise SettingsError(f"part: '{part}' needs a set that tells which of its tokens are a response, of all windows")
    of_part = part_weights(responses, part)
    if of_length is None:
        return of_part
    weights = of_part * of_length
    if not weights.any():
        raise SettingsError(
            f"length_weights: no token of the {part} stands in the first {max(scales or ())}; longer lengths may reach "
            "some"
        )
    return weights


def length_weights(seqlen: int, scales: Sequence[int]) -> np.ndarray:
    """The weight of each position t of a window, Σ over scales l >= t of 1 / l, scaled to a mean of 1.

    (seqlen,), float64. Raises SettingsError for scales that are not there, given twice, or longer than the window.
    """
    if not scales or len(set(scales)) != len(scales):
        raise SettingsError(f"length_weights: expected different lengths, at least one, got {list(scales)}")
    wrong = [scale for scale in scales if not 1 <= scale <= seqlen]
    if wrong:
        raise SettingsError(f"length_weights: expected 1 to {seqlen}, the tokens of a window, got {wrong[0]}")
    positions = np.arange(1, seqlen + 1)
    weights = sum((positions <= scale) / scale for scale in scales)
    return np.asarray(weights * seqlen / len(scales), dtype=np.float64)


def part_weights(responses: np.ndarray, part: Part) -> np.ndarray:
    """1 where a token counts and 0 elsewhere, in the shape of `responses` (nsamples, seqlen), bool; float64.

    `responses` says which tokens an assistant writes. Raises SettingsError when no token of the set counts.
    """
    counts = {"both": np.ones_like(responses, dtype=bool), "prompt": ~responses, "response": responses}[part]
    if not counts.any():
        raise SettingsError(f"part: no token of the set belongs to the {part}; longer windows may hold some")
    return counts.astype(np.float64)
