"""What describes a calibration set by a number, to be related to what the set did to a model.

A descriptor is a function in a file of `calib/describe/`, of the tokens alone: those here need no model. The hard case
is comparison: a richer set may only be a larger one, so descriptors that grow with the number of tokens say so, and
sets are compared at equal size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from calib.registry import Registry
from calib.spec import CalibrationSet

Descriptor = Callable[["Described"], "float | None"]
DESCRIPTORS: Registry[Descriptor] = Registry("descriptor", "calib.describe")
register = DESCRIPTORS.register


@dataclass(frozen=True, eq=False)
class Described:
    """A set's tokens, and what else a descriptor may ask for."""

    tokens: np.ndarray  # (nsamples, seqlen), int32
    pieces: Sequence[Sequence[int]] = ()  # tokens of each piece of a document, window by window
    vocabulary: int | None = None  # ids that the tokenizer has
    target: np.ndarray | None = None  # (windows, length), int32: text of the evaluation
    responses: np.ndarray | None = None  # (nsamples, seqlen), bool: tokens that an assistant writes


def describe(
    calibration_set: CalibrationSet,
    vocabulary: int | None = None,
    target: np.ndarray | None = None,
    names: Sequence[str] = (),
) -> dict[str, float | None]:
    """Each descriptor's number by its name; None where it needs what is not given (a vocabulary size, a target)."""
    described = Described(
        calibration_set.tokens, calibration_set.lengths, vocabulary, target, calibration_set.responses
    )
    return {name: DESCRIPTORS.get(name)(described) for name in names or DESCRIPTORS.names()}


def distribution(tokens: np.ndarray) -> np.ndarray:
    """How often each different value occurs; (k,), float64, adds up to 1."""
    counts = np.unique(tokens, return_counts=True)[1]
    return counts / counts.sum()


def divergence(one: np.ndarray, other: np.ndarray) -> float:
    """Jensen-Shannon divergence of the distributions of two lists of values, in bits: 0 when equal, 1 when disjoint."""
    values, places = np.unique(np.concatenate([one.ravel(), other.ravel()]), return_inverse=True)
    p = np.bincount(places[: one.size], minlength=len(values)) / max(one.size, 1)
    q = np.bincount(places[one.size :], minlength=len(values)) / max(other.size, 1)
    return float(entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2)


def entropy(shares: np.ndarray) -> float:
    """Of a distribution, in bits."""
    positive = shares[shares > 0]
    return float(-(positive * np.log2(positive)).sum())
