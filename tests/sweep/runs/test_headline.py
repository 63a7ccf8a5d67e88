"""The figures beside a trial's name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sweep.results import TrialRows
from sweep.runs.headline import headline


def metric(kind: str, name: str, value: float | None) -> dict[str, Any]:
    return {"kind": kind, "metric": name, "value": value}


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ([], ""),
        ([metric("task", "acc", 0.5), metric("task", "acc", 0.7), metric("task", "acc_norm", 0.1)], "acc 0.600"),
        ([metric("task", "acc", 0.5), metric("group", "acc", 0.7)], "acc 0.700"),
        ([{**metric("task", "exact_match", 0.25), "accuracy": "exact_match"}], "acc 0.250"),
        ([metric("task", "acc", None), metric("perplexity", "perplexity", None)], ""),
        ([metric("perplexity", "perplexity", 2.0), metric("perplexity", "perplexity", 8.0)], "ppl 4.00"),
        ([metric("blocks", "block_error", 0.01), metric("blocks", "block_error", 0.04)], "block error 0.02"),
        ([metric("blocks", "block_error", 0.0)], ""),
        ([metric("group", "acc", 1.0), metric("perplexity", "perplexity", math.e)], "acc 1.000 · ppl 2.72"),
    ],
)
def test_headline_is_mean_accuracy_and_geometric_mean_perplexity(metrics: list[dict[str, Any]], said: str) -> None:
    assert headline(TrialRows({}, metrics)) == said
