"""A figure for print is as wide as its column, whatever its labels, and keeps what it shows."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from analysis.page import vega
from analysis.page.chart import Chart
from analysis.page.paper import COLUMN, paper

ROWS = [{"name": f"a source of text {number}", "value": number, "kind": f"kind {number % 3}"} for number in range(6)]
KINDS = {"scale": {"domain": ["kind 0", "kind 1", "kind 2"]}}


def dots(**legend: Any) -> dict[str, Any]:
    return {
        "mark": {"type": "point", "size": 70},
        "width": 560,
        "height": {"step": 20},
        "encoding": {
            "x": {"field": "value", "type": "quantitative", "title": "a long title of an axis that has its unit, nats"},
            "y": {"field": "name", "type": "nominal"},
            "color": {"field": "kind", "type": "nominal", **KINDS, "legend": {"title": None, **legend}},
        },
    }


def cells() -> dict[str, Any]:
    x = {"field": "kind", "type": "nominal"}
    encoding = {"x": x, "y": {"field": "name", "type": "nominal"}, "color": {"field": "value", "type": "quantitative"}}
    return {"mark": "rect", "width": {"step": 60}, "height": {"step": 30}, "encoding": encoding}


BODIES: dict[str, dict[str, Any]] = {
    "one plot": {"data": {"values": ROWS}, **dots()},
    "legend below": {"data": {"values": ROWS}, **dots(orient="bottom", columns=3)},
    "panels": {"data": {"values": ROWS}, "vconcat": [dots(), {**dots(), "title": {"text": "two", "fontSize": 12.5}}]},
    "cells": {"data": {"values": ROWS}, **cells()},
    "facets": {"data": {"values": ROWS}, "facet": {"row": {"field": "kind", "type": "nominal"}}, "spec": dots()},
}


@pytest.mark.parametrize("columns", COLUMN)
@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("title", [True, False])
def test_a_figure_is_as_wide_as_its_column(kind: str, columns: int, title: bool) -> None:
    chart = Chart("What a figure is called, which may be long", "n = 6. " * 12, BODIES[kind])
    drawing = vega.svg(paper(chart, columns, title=title))
    width = re.search(r'width="([\d.]+)"', drawing)
    assert width is not None
    assert abs(float(width.group(1)) - COLUMN[columns]) < 2
    assert ("What a figure" in drawing) is title


def test_the_chart_itself_stays_as_it_was_and_its_data_travels_with_it() -> None:
    chart = Chart("title", "n = 6", BODIES["panels"])
    before = json.dumps(chart.spec)
    printed = paper(chart)
    assert json.dumps(chart.spec) == before
    assert printed["data"] == {"values": ROWS}
    assert printed["$schema"].endswith(".json")


def test_type_is_that_of_a_paper() -> None:
    drawing = vega.svg(paper(Chart("title", "n = 6", BODIES["one plot"])))
    sizes = {float(size) for size in re.findall(r'font-size="([\d.]+)px"', drawing)}
    assert sizes
    assert max(sizes) <= 9
    assert min(sizes) >= 6
