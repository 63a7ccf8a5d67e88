"""Draws follow the softmax, keep to top-k and top-p, and say when rounding could change them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib.writer import Request
from sweep.generation.draw import draw, gumbel

PLAIN = Request(prompt=(0,), seed=1, temperature=1.0, top_p=1.0, top_k=None, max_new_tokens=8)
LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.07, 0.03], dtype=np.float32))


def shares(request: Request, draws: int = 20_000) -> np.ndarray:
    found = [draw(LOGITS, replace(request, seed=seed), 3)[0] for seed in range(draws)]
    return np.bincount(found, minlength=len(LOGITS)) / draws


def expected(request: Request) -> np.ndarray:
    """The plainest version: sort, cut, renormalise."""
    p = np.exp(LOGITS.astype(float) / request.temperature)
    p /= p.sum()
    order = np.argsort(-p)
    kept = order[: request.top_k] if request.top_k else order
    renormalised = p[kept] / p[kept].sum()
    kept = kept[np.cumsum(renormalised) - renormalised < request.top_p]
    out = np.zeros(len(p))
    out[kept] = p[kept] / p[kept].sum()
    return out


@pytest.mark.parametrize(
    "changes",
    [{}, {"temperature": 0.5}, {"temperature": 1.7}, {"top_k": 2}, {"top_p": 0.8}, {"top_k": 4, "top_p": 0.7}],
    ids=str,
)
def test_tokens_are_drawn_from_the_softmax(changes: dict[str, float]) -> None:
    request = replace(PLAIN, **changes)
    np.testing.assert_allclose(shares(request), expected(request), atol=0.015)  # four standard errors of 20,000 draws


def test_no_temperature_takes_the_likeliest() -> None:
    assert draw(LOGITS, replace(PLAIN, temperature=0.0), 5) == (0, False)


def noise(seed: int, place: int, size: int) -> np.ndarray:
    return gumbel(seed, place, size, np.arange(size))


def test_noise_depends_on_seed_and_place_alone() -> None:
    first = noise(7, 3, 100)
    np.testing.assert_array_equal(first, noise(7, 3, 100))
    np.testing.assert_array_equal(first[:40], noise(7, 3, 40))
    np.testing.assert_array_equal(first[[5, 60]], gumbel(7, 3, 100, np.array([5, 60])))
    for seed, place in ((8, 3), (7, 4), (2**64 - 1, 3), (7, 2**20)):
        assert np.isfinite(noise(seed, place, 100)).all()
        assert not np.array_equal(first, noise(seed, place, 100))


def test_noise_is_the_same_on_every_machine() -> None:
    """NumPy promises the raw stream of Philox; the logarithms may differ in the last digit."""
    np.testing.assert_allclose(noise(7, 3, 4), [0.1944944052, -0.5865779915, 4.0255426494, 0.2659739189], rtol=1e-6)


def test_noise_is_a_standard_gumbel() -> None:
    found = noise(0, 0, 200_000)
    assert abs(found.mean() - np.euler_gamma) < 0.02
    assert abs(found.var() - np.pi**2 / 6) < 0.05


def test_what_rounding_could_change_is_said() -> None:
    """No draw that calls itself sure moves when every logit moves by a tenth of the margin."""
    rng = np.random.default_rng(0)
    requests = [
        PLAIN,
        replace(PLAIN, top_p=0.9),
        replace(PLAIN, top_k=5, temperature=0.7),
        replace(PLAIN, temperature=0),
    ]
    unsure = moved = 0
    for seed in range(3_000):
        logits = rng.normal(size=50).astype(np.float32)
        logits[: seed % 5] = logits[5]  # ties
        request = replace(requests[seed % len(requests)], seed=seed)
        token, close = draw(logits, request, 0)
        other, _ = draw(logits + rng.uniform(-5e-5, 5e-5, size=50).astype(np.float32), request, 0)
        unsure += close
        moved += token != other
        assert close or token == other
    assert moved > 0
    assert unsure < 600
