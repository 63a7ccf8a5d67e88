"""What the choice of examples adds to a loss."""

import numpy as np
import polars as pl
import pytest

from sweep.adviser.luck import noise, spread, worth_asking
from sweep.adviser.targets import Target

TEXTS = Target("texts", "text", ("one", "two"))
ARMS = {f"{arm}{draw}": arm for arm in "ab" for draw in range(30)}


def samples(seed: int, of_draws: float, of_arms: float, windows: int = 20) -> pl.DataFrame:
    """Windows of two texts: hard and easy ones, draws with luck of their own, and residuals of both kinds."""
    rng = np.random.default_rng(seed)
    rows = []
    for text in TEXTS.labels:
        hard = rng.standard_normal(windows)
        liked = {arm: of_arms * rng.standard_normal(windows) for arm in "ab"}
        for trial, arm in ARMS.items():
            loss = hard + rng.standard_normal() + liked[arm] + of_draws * rng.standard_normal(windows)
            rows += [
                {"trial_id": trial, "task": text, "doc_id": doc, "nll": value / 100} for doc, value in enumerate(loss)
            ]
    return pl.DataFrame(rows)


def test_noise_is_the_residual_of_draws_and_not_of_examples_or_arms() -> None:
    found = samples(0, 3.0, 2.0)
    assert noise(found, ARMS, TEXTS) == pytest.approx(9 / 20 / 2, rel=0.1)  # two texts: half of each one's variance
    assert noise(samples(0, 0.0, 2.0), ARMS, TEXTS) == pytest.approx(0, abs=1e-9)


def test_what_examples_make_of_arms_counts_between_arms() -> None:
    found = samples(1, 1.0, 2.0, windows=400)
    both = (1 + 4 / 2 * 60 / 59) / 400 / 2  # of two arms each keeps half of its own variance
    assert spread(found, list(ARMS), TEXTS) == pytest.approx(both, rel=0.1)


def test_one_draw_or_one_window_says_nothing() -> None:
    found = samples(2, 1.0, 1.0)
    assert noise(found, {"a0": "a", "b0": "b"}, TEXTS) is None
    assert noise(found.filter(pl.col("doc_id") == 0), ARMS, TEXTS) is None


def test_dear_compression_asks_more_examples_and_lucky_draws_fewer() -> None:
    assert worth_asking(32, 10.0, 10.0, 1.0, 1.0) == 32
    assert worth_asking(32, 40.0, 10.0, 1.0, 1.0) == 64
    assert worth_asking(32, 10.0, 10.0, 1.0, 4.0) == 16
    assert worth_asking(32, 10.0, 10.0, 1.0, 0.0) is None


def test_tasks_are_counted_by_their_score_or_the_right_answer() -> None:
    rng = np.random.default_rng(3)
    rows = [
        {"trial_id": trial, "task": "t", "doc_id": doc, "nll": None, "score": score, "loglikelihood": -2 * score}
        for trial in ARMS
        for doc, score in enumerate(rng.integers(2, size=50).astype(float))
    ]
    found = pl.DataFrame(rows)
    found = found.with_columns(pl.col("nll").cast(pl.Float32))
    accuracy = noise(found, ARMS, Target("t", "accuracy", tasks=("t",)))
    assert accuracy == pytest.approx(100**2 / 4 / 50, rel=0.1)
    assert noise(found, ARMS, Target("t", "loglikelihood", tasks=("t",))) == pytest.approx(accuracy * 4 / 100**2)
