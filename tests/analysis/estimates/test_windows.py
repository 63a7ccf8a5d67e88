"""Windows are a sample of a text: how far other windows would move a contrast."""

from __future__ import annotations

import numpy as np
import polars as pl

from analysis.estimates.outcomes import Outcomes
from analysis.estimates.windows import match_tests


def outcomes(rng: np.random.Generator, windows: int, luck: float = 0.3) -> Outcomes:
    """One method, two sources of two sets, a dense trial; windows favour their own source by chance, each text anew."""
    trials = pl.DataFrame(
        {
            "method": ["dense", *["gptq"] * 4],
            "method_label": ["dense", *["GPTQ"] * 4],
            "source": [None, "books", "books", "code", "code"],
        }
    )
    texts = {}
    for text in ("books", "code"):
        dense = rng.normal(3, 0.5, windows)
        favour = -0.1 + luck * rng.standard_normal(windows)  # of the own source, on each window
        rows = [dense + 0.2 + (favour if source == text else 0.0) for source in ("books", "books", "code", "code")]
        texts[text] = np.stack([dense, *rows]).astype(np.float32)
    return Outcomes("small", trials, {"nll": texts}, {"nll": frozenset(texts)})


def test_variance_is_that_of_the_contrast_over_new_windows() -> None:
    rng = np.random.default_rng(0)
    stated, contrasts = [], []
    for _ in range(400):
        seen = outcomes(rng, 40, 0.05)
        (row,) = match_tests(seen)
        stated.append(float(str(row["variance"])))
        increase = {
            text: 100 * (np.exp((matrix[1:] - matrix[0]).mean(axis=1)) - 1)
            for text, matrix in seen.matrices["nll"].items()
        }
        books, code = increase["books"], increase["code"]
        contrasts.append(((books[2:].mean() - books[:2].mean()) + (code[:2].mean() - code[2:].mean())) / 2)
    assert np.isclose(np.mean(stated), np.var(contrasts, ddof=1), rtol=0.25)


def test_one_window_or_no_dense_trial_tells_nothing() -> None:
    rng = np.random.default_rng(1)
    assert match_tests(outcomes(rng, 1)) == []
    seen = outcomes(rng, 5)
    rest = {text: matrix[1:] for text, matrix in seen.matrices["nll"].items()}
    bare = Outcomes("small", seen.trials.filter(pl.col("method") != "dense"), {"nll": rest}, seen.tasks)
    assert match_tests(bare) == []
