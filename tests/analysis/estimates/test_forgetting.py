"""Flips by the dense model's margin, against counting them one by one."""

from __future__ import annotations

import numpy as np
import polars as pl

from analysis.estimates.forgetting import THIRDS, forgetting, thirds
from analysis.estimates.outcomes import Outcomes


def _outcomes(score: dict[str, np.ndarray], margin: dict[str, np.ndarray]) -> Outcomes:
    trials = pl.DataFrame(
        {"method": ["dense", "gptq", "gptq"], "method_label": ["dense", "GPTQ", "GPTQ"], "parameters": [5, 5, 5]}
    )
    return Outcomes("small", trials, {"score": score, "margin": margin}, {"score": frozenset(score)})


def test_thirds_hold_as_many_examples_each() -> None:
    assert thirds(np.array([5.0, 1.0, 3.0, 2.0, 9.0, 0.5])).tolist() == [2, 0, 1, 1, 2, 0]
    assert np.bincount(thirds(np.zeros(9))).tolist() == [3, 3, 3]


def test_flips_are_counted_within_thirds_of_each_task() -> None:
    nan = np.nan
    score = {
        "a": np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1]], np.float32),
        "b": np.array([[1, 0, 1], [1, 1, nan], [0, 0, 1]], np.float32),
    }
    margin = {
        "a": np.array([[0.1, 5.0, -2.0]] * 3, np.float32),  # close, clear, middle
        "b": np.array([[300.0, -100.0, 200.0]] * 3, np.float32),  # clear, close, middle: on a scale of its own
    }
    rows = {row["dense_margin"]: row for row in forgetting(_outcomes(score, margin))}
    assert tuple(rows) == THIRDS
    assert (rows["close"]["lost"], rows["close"]["gained"]) == (50.0, 25.0)  # a0 twice, b1 once, of two examples each
    assert (rows["middle"]["lost"], rows["middle"]["gained"]) == (0.0, 25.0)  # a2 once; b2 has no answer in one trial
    assert (rows["clear"]["lost"], rows["clear"]["gained"]) == (25.0, 0.0)
    assert sum(row["share_of_flips"] for row in rows.values()) == 100
    assert rows["clear"]["margin_median"] == 152.5


def test_shares_between_right_and_wrong_are_left_out() -> None:
    score = {"a": np.array([[0.3, 1, 0]] * 3, np.float32)}
    assert forgetting(_outcomes(score, {"a": np.ones((3, 3), np.float32)})) == []


def test_a_third_without_answers_is_no_third_without_flips() -> None:
    nan = np.nan
    margin = {"a": np.array([[0.1, 2.0, 5.0]] * 3, np.float32)}
    rows = forgetting(_outcomes({"a": np.array([[1, 1, 0], [0, 1, nan], [0, 0, 1]], np.float32)}, margin))
    assert [(row["flipped"], row["trials"]) for row in rows] == [(100.0, 2), (50.0, 2), (100.0, 1)]
    assert rows[-1]["flipped_sd"] is None
    alone = forgetting(_outcomes({"a": np.array([[1], [0], [1]], np.float32)}, {"a": np.ones((3, 1), np.float32)}))
    assert [row["dense_margin"] for row in alone] == ["close"]
