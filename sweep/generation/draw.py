"""One token out of logits: temperature, top-k, top-p, and a draw that depends on the request and the place alone.

A token is the largest of logit / temperature + Gumbel noise, which draws from the softmax (the Gumbel-max trick,
https://arxiv.org/abs/1411.0030). The noise comes from Philox, a generator that counts: its key is the request's seed,
its counter the number of the token, so no other text and no batch moves it, and NumPy promises the stream. The hard
case is a near tie: logits of the same text differ in their last digits between batch sizes and devices. `draw` says
when such a difference could change the token, and who calls then decides by logits that are computed in one way
whatever the batch.
"""

from __future__ import annotations

import numpy as np

from calib.writer import Request

LOGIT_MARGIN = 1e-3  # float32 logits of one text differ by 1e-5 to 1e-4 between batch sizes
MASS_MARGIN = 1e-4  # and their probabilities, added up, by less than that
NEGLIGIBLE = 1e-8  # probability of tokens that are left out of the sorting for top-p


def draw(logits: np.ndarray, request: Request, place: int) -> tuple[int, bool]:
    """(token, whether a difference of rounding could make it another one).

    `logits` are (vocabulary,), float32; `place` is the number of the token in the answer, from 0.
    """
    if request.temperature == 0:
        return _largest(logits.astype(np.float64), LOGIT_MARGIN)
    margin = LOGIT_MARGIN / request.temperature
    scaled = logits.astype(np.float64) / request.temperature
    kept, at_the_edge = _kept(scaled, request, margin)
    eligible = np.flatnonzero(kept | at_the_edge)
    noisy = scaled[eligible] + gumbel(request.seed, place, len(scaled), eligible)
    best, close = _largest(np.where(kept[eligible], noisy, -np.inf), margin)
    challenged = bool((noisy[at_the_edge[eligible]] > noisy[best] - margin).any())
    return int(eligible[best]), close or challenged


def gumbel(seed: int, place: int, size: int, tokens: np.ndarray) -> np.ndarray:
    """Standard Gumbel noise of some of the `size` tokens of a vocabulary, for token number `place` of a text; float64.

    A token's noise is the same whichever others are asked for.
    """
    generator = np.random.Philox(key=seed, counter=place << 64)  # a token takes fewer than 2**64 numbers
    raw = np.asarray(generator.random_raw(size), dtype=np.uint64)[tokens]
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # within (0, 1)
    return np.asarray(-np.log(-np.log(uniform)))


def _largest(values: np.ndarray, margin: float) -> tuple[int, bool]:
    """(place of the largest, whether the second is within the margin of it)."""
    best = int(values.argmax())
    others = (part.max() for part in (values[:best], values[best + 1 :]) if len(part))
    return best, bool(values[best] - max(others, default=-np.inf) < margin)


def _kept(scaled: np.ndarray, request: Request, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """(tokens that top-k and then top-p leave, tokens that rounding could put in or out); both (vocabulary,), bool."""
    kept = np.ones(len(scaled), dtype=bool)
    edge = np.zeros(len(scaled), dtype=bool)
    if request.top_k is not None and request.top_k < len(scaled):
        lowest = np.partition(scaled, -request.top_k)[-request.top_k]
        kept = scaled >= lowest
        if (scaled > lowest - margin).sum() > request.top_k:
            edge |= np.abs(scaled - lowest) < margin
    if request.top_p < 1:
        weights = np.where(kept, np.exp(scaled - scaled.max()), 0.0)
        shares = weights / weights.sum()
        falling = -np.sort(-shares[shares > NEGLIGIBLE])
        before = np.cumsum(falling) - falling
        if before[-1] + falling[-1] >= request.top_p:  # else all of them are needed
            inside = int(np.searchsorted(before, request.top_p))  # of the falling shares; the first always is
            kept = shares > falling[inside - 1]
            ties = np.flatnonzero(shares == falling[inside - 1])
            kept[ties[: inside - int(kept.sum())]] = True  # of equal tokens the first
            at_the_cut = falling[np.abs(before - request.top_p) < MASS_MARGIN]
            if len(at_the_cut):
                edge |= (shares >= at_the_cut[-1]) & (shares <= at_the_cut[0])
            lowest = scaled[kept].min()
            if inside < len(falling) and lowest - scaled[~kept & (shares >= falling[inside])].max() < margin:
                edge |= np.abs(scaled - lowest) < margin
    return kept, edge
