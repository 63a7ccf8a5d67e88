"""What a model makes of the choices of an example: probabilities, how good they are, how well they are calibrated.

Right or wrong is one bit of an answer, and most of what compression changes does not turn it. The same scores hold
more: the softmax over the choices is a forecast, whose quality the Brier score measures (Brier 1950, Monthly Weather
Review 78) and whose calibration the expected calibration error (Naeini, Cooper & Hauskrecht 2015, AAAI).

The scores are those that the task's accuracy compares: log-likelihoods summed over tokens (`acc`, and any accuracy
that does not say otherwise), per character (`acc_norm`), per byte (`acc_bytes`), or minus the unconditional ones
(`acc_mutual_info`). So the most probable choice is the answer that counts as right or wrong. The hard case is an
example with several right choices: together they are one event, whose probability is their sum.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

BINS = 10  # of confidence, equally wide: with the hundreds of examples of a task, 10 keep some in most bins


@dataclass(frozen=True)
class Forecast:
    """What the probabilities of one example's choices are worth.

    probability: of the right choices together.
    confidence:  of the most probable choice.
    brier:       squared distance of the probabilities from the outcome, the right choices as one event; 0 to 2.
    hit:         the most probable choice is right.
    """

    probability: float
    confidence: float
    brier: float
    hit: bool


def comparable(lls: Sequence[float], choices: Sequence[str], accuracy: str | None) -> np.ndarray:
    """The scores that `accuracy` compares, float64 [choices].

    `lls` are nats for each of the choices, for `acc_mutual_info` followed by the unconditional ones.
    """
    scores = np.asarray(lls[: len(choices)], np.float64)
    if accuracy == "acc_norm":
        return scores / np.array([float(len(choice)) for choice in choices])
    if accuracy == "acc_bytes":
        return scores / np.array([float(len(choice.encode("utf-8"))) for choice in choices])
    if accuracy == "acc_mutual_info":
        return scores - np.asarray(lls[len(choices) :], np.float64)
    return scores


def forecast(scores: np.ndarray, right: Collection[int]) -> Forecast | None:
    """The forecast that scores [choices] make; None where no choice has a finite score, or none can be wrong."""
    largest = scores.max(initial=-np.inf)
    good = np.isin(np.arange(len(scores)), list(right))
    if not np.isfinite(largest) or good.all():
        return None
    weights = np.exp(scores - largest)
    p = weights / weights.sum()
    probability = float(p[good].sum())
    brier = (1 - probability) ** 2 + float((p[~good] ** 2).sum())
    answer = int(scores.argmax())
    return Forecast(probability, float(p[answer]), brier, answer in right)


def calibration_error(confidence: np.ndarray, hit: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: the mean over examples of |share of hits - mean confidence| in their bin.

    The bins are equally wide on (0, 1], closed above. Raises ValueError without examples.
    """
    if not len(confidence):
        raise ValueError("a calibration error needs examples")
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(place, weights=hit.astype(np.float64) - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))
