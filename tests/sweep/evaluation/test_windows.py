"""Numbers of held-out windows: each fails alone, with its reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sweep.evaluation.questions.heldout import HeldOut
from sweep.evaluation.windows import WindowScores, window_rows

TEXT = HeldOut("books", np.zeros((3, 9), np.int32))


@pytest.fixture
def scores() -> WindowScores:
    rng = np.random.default_rng(0)
    nll, js, kl, reverse = (rng.uniform(0, 2, (3, 8)).astype(np.float32) for _ in range(4))
    return WindowScores(nll, js, kl, reverse, rng.random((3, 8)) < 0.7)


def numbers(scores: WindowScores) -> tuple[dict[str, float | None], dict[str, str]]:
    """(values, reasons) by metric."""
    rows, _ = window_rows(TEXT, scores)
    assert all((row["value"] is None) == (row["reason"] is not None) for row in rows)
    assert {row["n"] for row in rows} == {3}
    return {row["metric"]: row["value"] for row in rows}, {r["metric"]: r["reason"] for r in rows if r["reason"]}


def test_a_perplexity_that_overflows_costs_only_itself(scores: WindowScores) -> None:
    before, _ = numbers(scores)
    values, reasons = numbers(replace(scores, nll=np.full((3, 8), 800.0, np.float32)))
    assert reasons == {"perplexity": "exp(800 nats per token) overflows"}
    assert {k: v for k, v in values.items() if v is not None} == {k: v for k, v in before.items() if k != "perplexity"}
    rows, samples = window_rows(TEXT, replace(scores, nll=np.full((3, 8), 800.0, np.float32)))
    assert [row["nll"] for row in samples] == [800.0] * 3
    assert rows[0]["stderr"] is None


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_logits_that_are_no_numbers_have_no_perplexity_and_no_agreement(number: float, scores: WindowScores) -> None:
    scores.nll[1, 4] = number
    if np.isnan(number):
        scores.js[1, 4] = scores.kl[1, 4] = scores.kl_reverse[1, 4] = number  # type: ignore[index]
    values, reasons = numbers(scores)
    told = ("NaN" if np.isnan(number) else "infinite") + " in 1 of 3 windows (first: window 1)"
    assert reasons["perplexity"] == told
    assert reasons["top1_agreement"] == "NaN in 1 of 3 windows (first: window 1)"
    assert (values["js_divergence"] is None) == bool(np.isnan(number))
    _, samples = window_rows(TEXT, scores)
    assert [row["nll"] is None for row in samples] == [False, True, False]
    assert ["js" in row and row["js"] is None for row in samples] == [False, bool(np.isnan(number)), False]


def test_one_divergence_that_is_infinite_costs_only_itself(scores: WindowScores) -> None:
    scores.kl[0, 0] = np.inf  # type: ignore[index]
    _, reasons = numbers(scores)
    assert set(reasons) == {"kl_divergence", *(f"kl_divergence_q{quantile}" for quantile in (90, 95, 99))}


def test_a_single_window_has_no_standard_error(scores: WindowScores) -> None:
    one = WindowScores(*(None if v is None else v[:1] for v in (scores.nll, scores.js, scores.kl, None, None)))
    rows, _ = window_rows(HeldOut("books", TEXT.tokens[:1]), one)
    assert [row["stderr"] for row in rows] == [None]
