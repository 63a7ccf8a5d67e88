"""The parts of a chart: JSON without NaN, counts in words, one colour a name."""

from __future__ import annotations

import json
import math

import polars as pl
import pytest

from analysis.page.chart import OKABE_ITO, Chart
from analysis.page.marks import category, interval, records, span


def test_rows_of_a_specification_know_no_nan_and_no_infinity() -> None:
    rows = records(pl.DataFrame({"name": ["a", "b", "c"], "value": [1.5, math.nan, math.inf]}))
    assert json.loads(json.dumps(rows, allow_nan=False)) == [
        {"name": "a", "value": 1.5},
        {"name": "b", "value": None},
        {"name": "c", "value": None},
    ]


@pytest.mark.parametrize(("counts", "told"), [([5, 5], "5"), ([3, 5], "3 to 5"), ([], "0"), ([1200], "1,200")])
def test_counts_are_told_as_a_span(counts: list[int], told: str) -> None:
    assert span(pl.Series(counts, dtype=pl.Int64)) == told


def test_colours_follow_names_and_begin_again_when_they_run_out() -> None:
    names = [f"m{number}" for number in range(len(OKABE_ITO) + 1)]
    scale = category("method_label", names, None)["scale"]
    assert scale["domain"] == names
    assert scale["range"] == [*OKABE_ITO, OKABE_ITO[0]]


def test_an_interval_that_no_row_has_is_no_layer() -> None:
    frame = pl.DataFrame({"low": [None, None]}, schema={"low": pl.Float64})
    assert interval(frame, {}, {}, "red") == []
    assert len(interval(pl.DataFrame({"low": [None, 1.0]}), {}, {}, "red")) == 1


def test_long_subtitles_are_wrapped_between_words() -> None:
    lines = Chart("title", "word " * 60, {"mark": "bar"}).spec["title"]["subtitle"]
    assert len(lines) > 1
    assert all(len(line) <= 96 for line in lines)
    assert " ".join(lines) == ("word " * 60).strip()
