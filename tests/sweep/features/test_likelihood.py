"""Min-K% and Min-K%++ by their definitions, and logits chunk by chunk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sweep.features import likelihood
from sweep.features.likelihood import Likelihood, window_likelihood


@pytest.fixture
def found() -> Likelihood:
    random = np.random.default_rng(0)
    shape = (4, 15)
    return Likelihood(
        *(each.astype(np.float32) for each in (random.normal(-3, 2, shape), random.normal(-4, 1, shape))),
        random.uniform(0.5, 2, shape).astype(np.float32),
    )


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 1.0])
def test_min_k_is_the_mean_of_the_lowest(found: Likelihood, share: float) -> None:
    count = max(1, int(15 * share))
    plus = (found.log_probs.astype(np.float64) - found.means) / found.spreads
    for scores, ours in ((found.log_probs, found.min_k(share)), (plus, found.min_k_plus(share))):
        np.testing.assert_allclose(ours, [np.mean(sorted(row)[:count]) for row in scores], rtol=1e-5)


def test_a_place_where_one_token_alone_is_seen_divides_by_no_zero(found: Likelihood) -> None:
    certain = Likelihood(found.log_probs, found.means, np.zeros_like(found.spreads))
    assert np.isfinite(certain.min_k_plus()).all()


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_that_cannot_be_is_refused(found: Likelihood, share: float) -> None:
    with pytest.raises(ValueError, match="share: expected more than 0 and at most 1"):
        found.min_k(share)


def test_chunks_give_what_all_rows_give(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 50, generator=generator)
    tokens = torch.randint(0, 50, (20,), generator=generator)
    whole = window_likelihood(logits, tokens)
    monkeypatch.setitem(likelihood.CHUNK, "cpu", 150)
    assert all(torch.equal(a, b) for a, b in zip(whole, window_likelihood(logits, tokens), strict=True))


def test_tokens_that_cannot_be_are_no_not_a_number() -> None:
    logits = torch.zeros(3, 4)
    logits[:, 2:] = float("-inf")
    log_probs, means, spreads = window_likelihood(logits, torch.tensor([0, 1, 0]))
    torch.testing.assert_close(log_probs, torch.full((2,), -np.log(2.0)), check_dtype=False)
    torch.testing.assert_close(means, torch.full((2,), -np.log(2.0)), check_dtype=False)
    torch.testing.assert_close(spreads, torch.zeros(2), atol=1e-6, rtol=0)
