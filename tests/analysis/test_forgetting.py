"""Confidence and foreign bytes beside the dense model's, on rows with a known answer."""

from __future__ import annotations

from typing import Any, cast

import polars as pl
import pytest

from analysis.forgetting import byte_table, confidence_table
from analysis.frames import CheckedResults, Study

FACTORS = {"model": "m", "parameters": 5, "source": None, "set": None, "nsamples": None}


def _study() -> Study:
    labels = {"d": "dense", "a": "GPTQ", "b": "GPTQ"}
    trials = pl.DataFrame(
        [
            {**FACTORS, "trial_id": id, "method": label.lower(), "method_label": label, "condition": None}
            for id, label in labels.items()
        ],
        schema_overrides={"condition": pl.String},
    )
    ece = {"d": 10.0, "a": 14.0, "b": 18.0}
    rows = [(id, "ece", "mean", value) for id, value in ece.items()] + [("d", "brier", "mean", 0.4)]
    values = pl.DataFrame(rows, ["trial_id", "measure", "task", "value"], orient="row").join(trials, on="trial_id")
    bits = [("d", 2.0), ("a", 2.5), ("b", 3.0)]
    metrics = pl.DataFrame(
        [
            {"trial_id": id, "kind": "task", "task": "hex", "metric": "bits_per_byte", "value": value}
            for id, value in bits
        ]
    )
    blank: Any = pl.DataFrame()
    return Study(cast(CheckedResults, None), "s", trials, blank, metrics, values, blank)


def test_confidence_stands_beside_the_dense_models() -> None:
    row = confidence_table(_study()).row(0, named=True)
    assert (row["trials"], row["ece"], row["ece_dense"]) == (2, 16.0, 10.0)
    assert row["ece_sd"] == pytest.approx(8**0.5)
    assert row["brier"] is None


def test_bits_per_byte_are_an_excess_over_the_dense_models() -> None:
    row = byte_table(_study()).row(0, named=True)
    assert (row["task"], row["trials"], row["dense"], row["bits_per_byte"], row["excess"]) == (
        "hex",
        2,
        2.0,
        2.75,
        0.75,
    )
    assert row["excess_sd"] == pytest.approx(0.125**0.5)
