"""What the charts are put together from: panels, categories, intervals, tooltips, and rows that are JSON.

Specifications are plain dictionaries: a report holds a hundred of them, and building them takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from analysis.measures import MEASURES
from analysis.page.chart import OKABE_ITO, WIDTH, Spec


def panel(label: str, body: Spec) -> Spec:
    return {"title": {"text": label, "fontSize": 12.5, "offset": 6, "frame": "group"}, "width": WIDTH, **body}


def interval(frame: pl.DataFrame, x: Spec, y: Spec, colour: str) -> list[Spec]:
    """The layer of the intervals from `low` to `high`; none where no row has one, as an axis needs an extent."""
    if frame["low"].null_count() == frame.height:
        return []
    return [
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "strokeWidth": 2, "color": colour},
            "encoding": {"x": {"field": "low", **x}, "x2": {"field": "high"}, "y": y},
        }
    ]


def category(column: str, names: Sequence[str], legend: Spec | None) -> Spec:
    """A colour per name, the same in every layer; only one layer carries the legend, together with its shapes."""
    colours = [OKABE_ITO[i % len(OKABE_ITO)] for i in range(len(names))]
    return {"field": column, "type": "nominal", "scale": {"domain": list(names), "range": colours}, "legend": legend}


def tip(name: str, title: str | None = None, form: str | None = None) -> Spec:
    """A line of a tooltip."""
    kind = {"type": "quantitative", "format": form} if form else {"type": "nominal"}
    return {"field": name, "title": title or name.replace("_", " "), **kind}


def axis_title(measure: str) -> str:
    info = MEASURES[measure]
    return f"{inside(info.title)}, {info.unit}" if info.unit else inside(info.title)


def inside(title: str) -> str:
    """A title inside a sentence: names and abbreviations keep their capitals."""
    return title if title.startswith(("Jensen", "KL", "Brier")) else title[0].lower() + title[1:]


def span(counts: pl.Series) -> str:
    """`5`, or `3 to 5` where cells differ."""
    if counts.is_empty():
        return "0"
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def records(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows for a specification, which is JSON and knows no NaN and no infinity."""
    numbers = pl.selectors.float()
    return frame.with_columns(pl.when(numbers.is_finite()).then(numbers)).to_dicts()


def largest(column: pl.Series) -> float:
    return max((float(value) for value in column.drop_nulls()), default=0.0)
