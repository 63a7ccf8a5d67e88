"""How many test examples a trial is worth: the number that tells sources apart for the least time.

A trial costs c_compress once and c_example for each example; a source's mean over n sets of b examples each has a
variance of σ²_set / n + (σ²_residual + σ²_source×example) / (n b), the variances being those of one example. For a
given time that is least at b* = √( (c_compress / c_example) (σ²_residual + σ²_source×example) / σ²_set ). Every trial
answers the same examples, so that their own difficulty cancels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Budget:
    """`examples`: b*; inf where sets do not differ, and every second is better spent on examples."""

    examples: float
    compress: float
    example: float


def best_examples(compress: float, example: float, noise: float, spread: float) -> Budget:
    """b* from the seconds of a trial without its test and of one example, and the variances of an example and a set.

    noise: residual + source × example, per example; spread: of a set within a source. Raises ValueError for times that
    are not above 0.
    """
    if not (compress > 0 and example > 0):
        raise ValueError(f"seconds are above 0, got {compress} and {example}")
    if spread <= 0:
        return Budget(float("inf"), compress, example)
    return Budget(float(np.sqrt(compress / example * max(noise, 0.0) / spread)), compress, example)
