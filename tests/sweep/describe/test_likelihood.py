"""Perplexity, Min-K%++ and entropy against their definitions in float64."""

from __future__ import annotations

import numpy as np
import pytest

from sweep.describe.base import SET, Described
from sweep.describe.min_k_plus import min_k_plus
from sweep.describe.perplexity import perplexity
from sweep.describe.predictive_entropy import predictive_entropy
from tests.sweep.describe.conftest import plain


def test_numbers_are_those_of_a_plain_forward(described: Described) -> None:
    log_probs, _ = plain(described.model, described.tokens)
    chances = np.exp(log_probs)
    of_tokens = np.take_along_axis(log_probs, described.tokens[:, 1:, None].astype(np.int64), axis=2)[..., 0]
    means = (chances * log_probs).sum(-1)
    spreads = np.sqrt((chances * log_probs**2).sum(-1) - means**2)
    lowest = np.sort((of_tokens - means) / spreads, axis=1)[:, : int(0.2 * 15)]
    assert perplexity(described)[SET] == pytest.approx(np.exp(-of_tokens.mean()), rel=1e-4)
    assert predictive_entropy(described)[SET] == pytest.approx(-means.mean(), rel=1e-4)
    assert min_k_plus(described)[SET] == pytest.approx(lowest.mean(), rel=1e-3)
